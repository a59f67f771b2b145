/**
 * The other end of the API: what the command line uses to talk to an agent.
 *
 *     const client = new ApiClient({ host: '127.0.0.1', port: 7601 });
 *     for await (const lines of client.dump('blocklist')) ...
 *
 * What the agent refuses is thrown as the MapmeshError that it was over there. No answer at all is ERR_API.
 */
import type { IncomingMessage } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { type ApiAddress, formatApiAddress } from '../core/api-address.js';
import { MapmeshError } from '../core/errors.js';
import type { EntryLayout } from '../core/layout.js';
import type { CatalogReport, NewMap } from './catalog-control.js';
import type { CommitReport, ReleaseReport, StatusReport, SweepReport } from './control.js';
import { errorFromBody } from './http-error.js';
import { bodyOf, send } from './http-request.js';
import type { DiffJson, NoEntry, RegisterJson, WriteJson } from './wire-format.js';

/** A line is one register in hex; one that is longer than this is no line of ours. */
const LINE_CHARS_MAX = 4 * 1024 * 1024;
/** Pause between attempts while waiting for an agent that does not listen yet. */
const RETRY_PAUSE_MS = 100;
/** For how long the other side may be silent. */
export interface Patience {
  /** An agent answers in milliseconds; one that does not in this time is stuck or stopped. */
  readonly answerMs: number;
  /** Within a stream: a watch has an empty line every 15 s. */
  readonly streamMs: number;
}

const PATIENCE: Patience = { answerMs: 15_000, streamMs: 60_000 };
/** A sweep or a comparison of several million entries. */
const LONG_TIMEOUT_MS = 280_000;
/** Longest single wait asked of the server. */
const WAIT_STEP_MS = 10_000;

export class ApiClient {
  readonly #to: ApiAddress;
  readonly #address: string;
  readonly #patience: Patience;

  constructor(to: ApiAddress, patience = PATIENCE) {
    this.#to = to;
    this.#patience = patience;
    this.#address = formatApiAddress(to);
  }

  status(): Promise<StatusReport> {
    return this.#json('GET', '/v1/status');
  }

  /** @returns undefined when there is no register; a tombstone has the value null. */
  async get(name: string, key: string): Promise<RegisterJson | undefined> {
    const response = await this.#request('GET', entryPath(name, key));
    if (response.statusCode !== 404) return (await this.#body(response)) as RegisterJson;
    const body = await this.#jsonOf(response);
    const entry = (body as Partial<NoEntry> | undefined)?.entry;
    if (entry !== undefined) return entry ?? undefined;
    throw errorFromBody(body, this.#strange(response));
  }

  /** @returns null if the map does not say what its fields are. */
  async layout(name: string): Promise<EntryLayout | null> {
    return (await this.#json<{ layout: EntryLayout | null }>('GET', `${mapPath(name)}/layout`)).layout;
  }

  put(name: string, key: string, value: string): Promise<WriteJson> {
    return this.#json('PUT', entryPath(name, key), { value });
  }

  del(name: string, key: string): Promise<WriteJson> {
    return this.#json('DELETE', entryPath(name, key));
  }

  /** Lines of {@link RegisterJson}, unparsed, some at a time. */
  dump(name: string, options: { tombstones?: boolean } = {}): AsyncIterable<string[]> {
    const query = options.tombstones === true ? '?tombstones=true' : '';
    return this.#lines(`${mapPath(name)}/entries${query}`);
  }

  /**
   * Lines of ChangeJson, at last one of WatchEnd, unparsed.
   * @param onOpen called once it is certain that no later change will be missed.
   */
  watch(name: string, key?: string, onOpen?: () => void): AsyncIterable<string[]> {
    const query = key === undefined ? '' : `?key=${encodeURIComponent(key)}`;
    return this.#lines(`${mapPath(name)}/watch${query}`, onOpen);
  }

  sweep(name?: string): Promise<SweepReport[]> {
    const path = name === undefined ? '/v1/sweep' : `${mapPath(name)}/sweep`;
    return this.#json('POST', path, undefined, LONG_TIMEOUT_MS);
  }

  diff(name: string): Promise<DiffJson> {
    return this.#json('GET', `${mapPath(name)}/diff`, undefined, LONG_TIMEOUT_MS);
  }

  release(name: string, { refill }: { refill: boolean }): Promise<ReleaseReport> {
    const query = refill ? '?refill=true' : '';
    return this.#json('POST', `${mapPath(name)}/release${query}`, undefined, LONG_TIMEOUT_MS);
  }

  commit(name: string, { back }: { back: boolean }): Promise<CommitReport> {
    const query = back ? '?back=true' : '';
    return this.#json('POST', `${mapPath(name)}/commit${query}`, undefined, LONG_TIMEOUT_MS);
  }

  catalog(): Promise<CatalogReport> {
    return this.#json('GET', '/v1/catalog');
  }

  addMap(name: string, map: NewMap): Promise<{ name: string; problem: string | null }> {
    return this.#json('POST', catalogPath(name), map);
  }

  setPolicy(name: string, policy: readonly string[]): Promise<CatalogReport> {
    return this.#json('PATCH', catalogPath(name), { policy });
  }

  resizeMap(name: string, maxEntries: number): Promise<CatalogReport> {
    return this.#json('POST', `${catalogPath(name)}/resize`, { maxEntries });
  }

  removeMap(name: string, { unpins }: { unpins: boolean }): Promise<CatalogReport> {
    return this.#json('DELETE', `${catalogPath(name)}${unpins ? '?unpin=true' : ''}`);
  }

  setEditors(editors: readonly string[]): Promise<CatalogReport> {
    return this.#json('PUT', '/v1/catalog/editors', { editors });
  }

  /**
   * Waits for an agent to answer and to be ready.
   * @returns the reasons why it still is not when the time is over; none when it is ready.
   * @throws MapmeshError ERR_API when nothing answered in all that time.
   */
  async waitReady(timeoutMs: number): Promise<string[]> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const leftMs = Math.max(0, Math.ceil(deadlineMs - performance.now()));
      try {
        const reasons = await this.#readyReasons(Math.min(leftMs, WAIT_STEP_MS));
        if (reasons.length === 0 || leftMs === 0) return reasons;
      } catch (error) {
        if (leftMs === 0 || !(error instanceof UnreachableError)) throw error;
      }
      await pause(Math.min(RETRY_PAUSE_MS, leftMs));
    }
  }

  async #readyReasons(waitMs: number): Promise<string[]> {
    const response = await this.#request(
      'GET',
      `/readyz?waitMs=${waitMs}`,
      undefined,
      AbortSignal.timeout(waitMs + this.#patience.answerMs),
    );
    const body = (await this.#jsonOf(response)) as { reasons?: unknown } | null;
    if (response.statusCode === 200) return [];
    if (!Array.isArray(body?.reasons)) throw errorFromBody(body, this.#strange(response));
    return body.reasons.map(String);
  }

  async #json<T>(
    method: string,
    path: string,
    body?: object,
    timeoutMs = this.#patience.answerMs,
  ): Promise<T> {
    return (await this.#body(await this.#request(method, path, body, AbortSignal.timeout(timeoutMs)))) as T;
  }

  async #body(response: IncomingMessage): Promise<unknown> {
    const body = await this.#jsonOf(response);
    if (response.statusCode !== 200 || body === undefined) throw errorFromBody(body, this.#strange(response));
    return body;
  }

  /** @param signal ends the answer, however far it is */
  async #request(
    method: string,
    path: string,
    body?: object,
    signal = AbortSignal.timeout(this.#patience.answerMs),
  ): Promise<IncomingMessage> {
    try {
      return await send(this.#to, { method, path, body, signal });
    } catch (error) {
      throw this.#unreachable(error);
    }
  }

  /** @returns undefined when the body is no JSON. */
  async #jsonOf(response: IncomingMessage): Promise<unknown> {
    let text: string;
    try {
      text = await bodyOf(response);
    } catch (error) {
      throw this.#unreachable(error);
    }
    try {
      return JSON.parse(text);
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  async *#lines(path: string, onOpen?: () => void): AsyncGenerator<string[]> {
    const silence = new Silence();
    try {
      silence.begin(this.#patience.answerMs);
      const response = await this.#request('GET', path, undefined, silence.signal);
      if (response.statusCode !== 200) await this.#body(response);
      onOpen?.();
      let rest = '';
      silence.begin(this.#patience.streamMs);
      for await (const text of response.setEncoding('utf8')) {
        // Not while whoever reads our lines takes its time.
        silence.end();
        const lines = (rest + text).split('\n');
        rest = lines.pop()!;
        if (rest.length > LINE_CHARS_MAX) throw errorFromBody(undefined, this.#strange(response));
        const full = lines.filter((line) => line !== '');
        if (full.length > 0) yield full;
        silence.begin(this.#patience.streamMs);
      }
    } catch (error) {
      if (error instanceof MapmeshError) throw error;
      const what = silence.signal.aborted
        ? `nothing came for ${this.#patience.streamMs / 1000} s`
        : 'the agent hung up';
      throw new MapmeshError('ERR_API', `Cannot read on from "${this.#address}": ${what}`, {
        hint: 'Was the agent stopped? See its log. It also cuts off a dump of which nothing is read for 15 s.',
        cause: error,
      });
    } finally {
      silence.end();
    }
  }

  #strange({ statusCode }: IncomingMessage): string {
    return `Cannot use the answer of "${this.#address}": HTTP status ${statusCode} and no JSON that mapmesh knows`;
  }

  #unreachable(error: unknown): MapmeshError {
    const { code, message } = error as NodeJS.ErrnoException;
    // What node calls everything that is wrong with an answer as HTTP.
    const isOther = code?.startsWith('HPE_') === true;
    const what = isOther ? 'what answers there is no mapmesh API' : (REASONS[code ?? ''] ?? message);
    const hint =
      code === 'EACCES'
        ? 'The socket belongs to another user: run the command as that user, or as root.'
        : isOther
          ? 'Is it the port of --listen? The agent prints the address of its API at start.'
          : 'Is the agent running (mapmesh agent --map NAME=SELECTOR)? Does --api have its address?';
    return new UnreachableError('ERR_API', `Cannot reach the agent at "${this.#address}": ${what}`, {
      hint,
      cause: error,
    });
  }
}

/** Ends an answer that does not go on. */
class Silence {
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #last: NodeJS.Immediate | undefined;

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** From now on it is waited for the other side, for so long. */
  begin(ms: number): void {
    this.end();
    // What has come while this process was stopped is read first.
    this.#timer = setTimeout(() => {
      this.#last = setImmediate(() => this.#abort.abort());
    }, ms);
  }

  end(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#last);
  }
}

/** Nothing answered: worth another try while an agent may be starting. */
class UnreachableError extends MapmeshError {}

const REASONS: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  ENOENT: 'there is no such socket',
  ENOTDIR: 'there is no such socket',
  EACCES: 'permission denied',
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'the name cannot be looked up now',
  ECONNRESET: 'the connection was cut',
  ETIMEDOUT: 'no answer',
  // Our own patience ended.
  ABORT_ERR: 'it accepts connections but does not answer',
};

function mapPath(name: string): string {
  return `/v1/maps/${encodeURIComponent(name)}`;
}

function catalogPath(name: string): string {
  return `/v1/catalog/maps/${encodeURIComponent(name)}`;
}

function entryPath(name: string, key: string): string {
  return `${mapPath(name)}/entries/${encodeURIComponent(key)}`;
}
