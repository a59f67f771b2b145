/** What a peer says before and beside the data: frames of a stream, the greeting, heartbeats, hellos. */
import assert from 'node:assert/strict';
import { AgentMap } from '../../../src/agent/agent-map.js';
import { type AgentHello, parseAgentHello } from '../../../src/agent/hello.js';
import { Members } from '../../../src/agent/members.js';
import { sha256 } from '../../../src/agent/sha256.js';
import { SILENT_LOG } from '../../../src/config/log.js';
import { MapmeshError } from '../../../src/core/errors.js';
import { FrameReader, frameHeader } from '../../../src/mesh/frame-reader.js';
import { decodeHeartbeat, encodeHeartbeat, type HeartbeatBody } from '../../../src/mesh/heartbeat.js';
import { decodeFrame, parseJson } from '../../../src/mesh/hello.js';
import { peerIdOfPublicKey } from '../../../src/mesh/identity.js';
import type { SeededRandom } from '../../sim/random.js';
import { mutate } from '../mutate.js';
import { mutateJson } from '../mutate-json.js';
import { seededNode } from '../nodes.js';
import type { Target } from '../target.js';

const MB = 1024 * 1024;
/** Thrown for decoders that refuse by returning nothing. */
const REFUSED = new MapmeshError('ERR_WIRE', 'Cannot decode: refused');
const STREAM_FRAME_BYTES_MAX = 4096;

/** @param frameBytesMax of the reader; what is demanded of it stays the same. */
export const streamTarget = (frameBytesMax: number): Target => ({
  name: 'stream',
  codes: ['ERR_LIMIT'],
  inputsPerRound: 20_000,
  rounds: 25,
  heldBytesMax: 4 * MB,
  begin: (random) => {
    let reader = new FrameReader(frameBytesMax);
    return {
      next: () => {
        const frames = Array.from({ length: random.between(1, 4) }, () => {
          const frame = random.bytes(random.between(0, 40));
          return [frameHeader(frame.length), frame];
        });
        const bytes = Buffer.concat(frames.flat());
        return random.chance(0.7) ? mutate(bytes, random) : bytes.subarray(random.between(0, bytes.length));
      },
      take: (chunk) => {
        try {
          for (const frame of reader.push(chunk))
            assert.ok(frame.length <= STREAM_FRAME_BYTES_MAX, 'bounded');
          assert.ok(reader.heldBytes <= STREAM_FRAME_BYTES_MAX + chunk.length, 'what is held is bounded');
        } catch (error) {
          reader = new FrameReader(frameBytesMax);
          throw error;
        }
      },
    };
  },
});

function peerIds(random: SeededRandom, count: number): string[] {
  return Array.from({ length: count }, () => peerIdOfPublicKey(random.bytes(32)));
}

function greetings(random: SeededRandom): unknown[] {
  const ids = peerIds(random, 8);
  const peers = ids.map((peerId) => ({
    peerId,
    addresses: ['/ip4/10.0.0.1/tcp/7600', '/dns4/a.example/tcp/1'],
  }));
  return [
    { type: 'hello', version: 1, cluster: 'default' },
    { type: 'details', startMs: 1.7e12, listen: ['/ip4/10.0.0.1/tcp/7600'], app: { ready: true }, peers },
    { type: 'ok' },
    { type: 'refuse', code: 'cluster', reason: 'a node of cluster "a" meets one of cluster "b"' },
  ];
}

/** JSON, changed as a value or as bytes. */
function mutatedJson(valid: readonly unknown[], random: SeededRandom): Uint8Array {
  const value = random.pick(valid);
  const bytes = Buffer.from(JSON.stringify(random.chance(0.6) ? mutateJson(value, random) : value));
  return random.chance(0.4) ? mutate(bytes, random) : bytes;
}

const greeting: Target = {
  name: 'greeting',
  codes: ['ERR_WIRE'],
  inputsPerRound: 4000,
  rounds: 6,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const valid = greetings(random);
    return { next: () => mutatedJson(valid, random), take: (bytes) => void decodeFrame(bytes) };
  },
};

const heartbeat: Target = {
  name: 'heartbeat',
  codes: ['ERR_WIRE'],
  inputsPerRound: 4000,
  rounds: 6,
  heldBytesMax: 8 * MB,
  begin: (random) => {
    const publicKey = random.bytes(32);
    const sign = (bytes: Uint8Array) => Buffer.concat([sha256(bytes), sha256(bytes)]);
    const verify = (_: Uint8Array, bytes: Uint8Array, signed: Uint8Array) => sign(bytes).equals(signed);
    const body: HeartbeatBody = {
      intervalMs: 1000,
      partial: false,
      listen: ['/ip4/10.0.0.1/tcp/7600'],
      app: { ready: true },
      links: peerIds(random, 5),
      peers: peerIds(random, 3).map((peerId) => ({ peerId, addresses: ['/ip4/10.0.0.2/tcp/7600'] })),
    };
    let counter = 0;
    return {
      next: () => {
        const changed = random.chance(0.6) ? (mutateJson(body, random) as HeartbeatBody) : body;
        const beat = encodeHeartbeat({ publicKey, sign }, 'default', 1.7e12, ++counter, changed);
        return random.chance(0.4) ? mutate(beat, random) : beat;
      },
      take: (bytes) => {
        const beat = decodeHeartbeat(bytes, 'default', verify);
        if (beat === null) throw REFUSED;
        assert.ok(beat.body.links.length <= 64 && (beat.body.peers?.length ?? 0) <= 64, 'lists are bounded');
      },
    };
  },
};

/** Hellos of many members, each of which names others that are away: what a node remembers of them is bounded. */
const hello: Target = {
  name: 'hello',
  codes: ['ERR_WIRE', 'ERR_LIMIT'],
  inputsPerRound: 1500,
  rounds: 5,
  heldBytesMax: 24 * MB,
  begin: (random) => {
    const node = seededNode(random);
    const map = new AgentMap(node.map, 'topic', () => 'sweep');
    const none = () => undefined;
    const timer = { again: none, cancel: none };
    const members = new Members(
      {
        origins: node.origins,
        hlc: node.hlc,
        clock: node.clock,
        timers: { nowMs: () => node.clock.nowUs / 1000, every: () => timer } as never,
        log: SILENT_LOG,
        journal: null,
        store: null,
      },
      {
        peerId: peerIdOfPublicKey(node.publicKey),
        forgetAfterMs: 86_400_000,
        tombstoneMsMin: 0,
        tombstonesMax: 1000,
      },
    );
    members.add(map);
    const known = peerIds(random, 40);
    const valid = (): AgentHello => ({
      wallMs: node.clock.wallUs() / 1000,
      away: peerIds(random, random.pick([0, 1, 20])).map((peerId) => ({
        peerId,
        awayMs: random.between(0, 80_000_000),
      })),
      ready: true,
      catalog: '0123456789abcdef',
      maps: [
        {
          name: 'test',
          generation: 1,
          kind: 'hash',
          keyBytes: 4,
          valueBytes: 4,
          seq: 5,
          floorUs: 1e15,
          haveUs: 1e15,
          horizonUs: 1e15,
          digest: '0123456789abcdef',
          live: true,
        },
      ],
    });
    return {
      next: () => mutatedJson([valid()], random),
      take: (bytes) => {
        node.clock.advance(100_000);
        const parsed = parseAgentHello(parseJson(bytes));
        if (parsed === undefined) throw REFUSED;
        const from = random.chance(0.5) ? random.pick(known) : peerIds(random, 1)[0]!;
        members.hear(from, parsed, random.chance(0.5));
        members.word(map);
        members.away();
      },
      check: () => {
        assert.ok(members.report().length <= 1024, `${members.report().length} members are remembered`);
        assert.ok(Number.isFinite(members.newestWallUs() ?? 0), 'clocks are numbers');
      },
    };
  },
};

export const MESH_TARGETS: readonly Target[] = [
  streamTarget(STREAM_FRAME_BYTES_MAX),
  greeting,
  heartbeat,
  hello,
];
