/**
 * Streams between greeted peers: opening them, and serving the protocols that the agent handles. Only peers that this
 * node accepts get through; a handler that rejects aborts its stream and nothing else.
 */

import type { Libp2p, Stream } from '@libp2p/interface';
import { asMapmeshError, MapmeshError } from '../core/errors.js';
import type { MeshLog } from './libp2p-log.js';
import { STREAM_OPEN_TIMEOUT_MS, STREAM_QUEUE_BYTES_MAX, STREAMS_PER_PROTOCOL_MAX } from './limits.js';
import { goodbye, type Link } from './link.js';
import type { LinkTable } from './link-table.js';
import type { FrameStream } from './mesh.js';
import { createFrameStream } from './streams.js';

/** Serves one stream; it is closed when this resolves and aborted when it rejects. */
export type StreamServer = (stream: FrameStream) => Promise<void>;

export class StreamService {
  readonly #links: LinkTable;
  readonly #log: MeshLog;
  readonly #servers = new Map<string, StreamServer>();
  /** Null before start and after stop. */
  #node: Libp2p | null = null;

  constructor(links: LinkTable, log: MeshLog) {
    this.#links = links;
    this.#log = log;
  }

  /** Registers every protocol with libp2p, those included that are handled while it runs. */
  async start(node: Libp2p): Promise<void> {
    for (const [protocol, server] of this.#servers) await this.#serve(node, protocol, server);
    this.#node = node;
  }

  /** Protocols handled from here on are not served; streams that are open go on. */
  stop(): void {
    this.#node = null;
  }

  /** Opens a stream to a greeted peer. @throws MapmeshError ERR_PEER */
  async open(peerId: string, protocol: string): Promise<FrameStream> {
    const link = this.#links.to(peerId);
    if (link?.phase !== 'greeted') {
      throw new MapmeshError('ERR_PEER', `Cannot open a stream to peer "${peerId}": it is not connected`);
    }
    try {
      const stream = await link.connection.newStream([protocol], {
        signal: AbortSignal.timeout(STREAM_OPEN_TIMEOUT_MS),
        maxOutboundStreams: STREAMS_PER_PROTOCOL_MAX,
      });
      return framed(stream, link);
    } catch (cause) {
      throw new MapmeshError('ERR_PEER', `Cannot open stream "${protocol}" to peer "${peerId}"`, { cause });
    }
  }

  /** Serves a protocol, from start() on if that is still to come. */
  handle(protocol: string, server: StreamServer): void {
    this.#servers.set(protocol, server);
    if (this.#node === null) return;
    this.#serve(this.#node, protocol, server).catch((error: unknown) =>
      this.#log.error({ error, protocol }, 'cannot serve a stream protocol'),
    );
  }

  async #serve(node: Libp2p, protocol: string, server: StreamServer): Promise<void> {
    await node.handle(
      protocol,
      ({ stream, connection }) => {
        const link = this.#links.of(connection);
        if (link === undefined || (link.phase !== 'greeted' && link.phase !== 'admitted')) {
          stream.abort(goodbye('a stream came before the greeting'));
          return;
        }
        void this.#run(server, framed(stream, link), protocol);
      },
      { maxInboundStreams: STREAMS_PER_PROTOCOL_MAX, maxOutboundStreams: STREAMS_PER_PROTOCOL_MAX },
    );
  }

  async #run(server: StreamServer, stream: FrameStream, protocol: string): Promise<void> {
    try {
      await server(stream);
      await stream.close();
    } catch (error) {
      this.#log.debug({ error, protocol, peerId: stream.peerId }, 'a stream was aborted');
      stream.abort(asMapmeshError(error, 'ERR_PEER', 'Cannot serve the stream'));
    }
  }
}

function framed(stream: Stream, link: Link): FrameStream {
  return createFrameStream(stream, {
    peerId: link.peerId,
    room: () => link.meter.room(STREAM_QUEUE_BYTES_MAX),
  });
}
