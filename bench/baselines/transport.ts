/** A way to get events from one process to another, to compare mapmesh with. */

export interface Sender {
  /** @param frame one event, or several packed where the transport takes several. Resolves when the next may be sent. */
  send(frame: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

export interface Receiver {
  /** What the sender is given. */
  readonly address: string;
  close(): Promise<void>;
}

export interface Transport {
  /** @param onFrame gets whole events, packed; valid during the call. */
  receive(onFrame: (frame: Uint8Array) => void, context: TransportContext): Promise<Receiver>;
  connect(address: string, context: TransportContext): Promise<Sender>;
  /** Events that it takes in one frame. */
  readonly frameEventsMax: number;
}

export interface TransportContext {
  readonly eventBytes: number;
  readonly keyBytes: number;
  /** Where the server listens, for transports that go by way of one. */
  readonly server: string;
}
