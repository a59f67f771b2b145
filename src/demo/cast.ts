/** The agents of a stage, by host, and what both stages ask of them. */
import { ApiClient } from '../api/client.js';
import { parseApiAddress } from '../core/api-address.js';
import { MapmeshError } from '../core/errors.js';
import { type AgentHooks, AgentProcess } from './agent-process.js';
import { DEADLINE_MS, DemoFailure, waitFor } from './failure.js';
import { type Host, hostName } from './stage.js';

/** Log lines of each agent that a failure shows. */
const LOG_LINES_SHOWN = 6;
/** Longest single wait for readiness, so that an interruption is noticed. */
const READY_STEP_MS = 250;

export interface StartPlan {
  readonly prefix: readonly string[];
  readonly args: readonly string[];
  /** Where its API can be reached from here; null: where it says. */
  readonly api: string | null;
}

interface Role {
  readonly agent: AgentProcess;
  readonly client: ApiClient;
}

export class Cast {
  readonly #roles = new Map<Host, Role>();
  readonly #signal: AbortSignal;
  readonly #hooks: AgentHooks;

  constructor(signal: AbortSignal, hooks: AgentHooks) {
    this.#signal = signal;
    this.#hooks = hooks;
  }

  agent(host: Host): AgentProcess {
    return this.#role(host).agent;
  }

  client(host: Host): ApiClient {
    return this.#role(host).client;
  }

  async start(host: Host, plan: StartPlan): Promise<void> {
    this.#signal.throwIfAborted();
    const name = `host ${hostName(host)}`;
    const agent = new AgentProcess(name, plan.prefix, plan.args, this.#hooks);
    // Noted before it works: whoever cleans up must find it.
    this.#roles.set(host, { agent, client: clientOf(plan.api ?? '127.0.0.1:1') });
    const api = await waitFor(`${name}'s agent to start`, this.#signal, () => agent.api || undefined);
    this.#roles.set(host, { agent, client: clientOf(plan.api ?? api) });
  }

  /** @returns how changes of its map are captured. */
  async ready(host: Host): Promise<string> {
    const client = this.client(host);
    const deadlineMs = performance.now() + DEADLINE_MS;
    for (;;) {
      this.#signal.throwIfAborted();
      const reasons = await client.waitReady(READY_STEP_MS);
      if (reasons.length === 0) break;
      if (performance.now() > deadlineMs) {
        throw new DemoFailure(
          `host ${hostName(host)} is not ready after ${DEADLINE_MS / 1000} s: ${reasons.join('; ')}`,
        );
      }
    }
    return (await client.status()).maps[0]!.capture;
  }

  /** kill -9. @returns the process id it had. */
  async kill(host: Host): Promise<number> {
    const { agent } = this.#role(host);
    await agent.kill();
    this.#roles.delete(host);
    return agent.pid;
  }

  lastLogLines(): string[] {
    return [...this.#roles.values()].flatMap(({ agent }) => [
      `${agent.name}:`,
      ...agent.lastLogLines(LOG_LINES_SHOWN).map((line) => `  ${line}`),
    ]);
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#roles.values()].map(({ agent }) => agent.stop()));
    this.#roles.clear();
  }

  #role(host: Host): Role {
    const role = this.#roles.get(host);
    if (role === undefined) throw new DemoFailure(`host ${hostName(host)} has no agent`);
    return role;
  }
}

/** What a call to an agent brings, or undefined if it cannot be reached. */
export async function unlessAway<T>(call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    if (error instanceof MapmeshError && error.code === 'ERR_API') return undefined;
    throw error;
  }
}

function clientOf(api: string): ApiClient {
  return new ApiClient(parseApiAddress(api)!);
}
