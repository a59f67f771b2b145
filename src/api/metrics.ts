/**
 * Prometheus metrics: the figures of the status report under names with units, and those of the Node process.
 * Read at scrape time; nothing is counted here.
 */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { AgentControl, MapReport, PeerReport, StatusReport } from './control.js';

export interface Metrics {
  readonly contentType: string;
  /** The exposition text. */
  text(): Promise<string>;
}

interface MapFigure {
  readonly name: string;
  readonly kind: 'counter' | 'gauge';
  readonly help: string;
  /** null = there is no figure yet. */
  readonly read: (map: MapReport) => number | null;
}

/** Per map, labelled `map`. */
const MAP_FIGURES: readonly MapFigure[] = [
  { name: 'entries', kind: 'gauge', help: 'Live registers of the replica', read: (map) => map.entries },
  { name: 'tombstones', kind: 'gauge', help: 'Deleted registers still kept', read: (map) => map.tombstones },
  { name: 'max_entries', kind: 'gauge', help: 'Capacity of the kernel map', read: (map) => map.maxEntries },
  { name: 'captured_total', kind: 'counter', help: 'Local writes captured', read: (map) => map.captured },
  {
    name: 'applied_total',
    kind: 'counter',
    help: 'Remote registers written into the kernel map',
    read: (map) => map.applied,
  },
  {
    name: 'repaired_total',
    kind: 'counter',
    help: 'Differences that sweeps found; what the kernel then refuses is pending',
    read: (map) => map.repaired,
  },
  {
    name: 'lost_total',
    kind: 'counter',
    help: 'Events known to be missed; each change starts a sweep',
    read: (map) => map.lost,
  },
  {
    name: 'pending',
    kind: 'gauge',
    help: 'Registers that the kernel refused and that are retried',
    read: (map) => map.pending,
  },
  {
    name: 'held',
    kind: 'gauge',
    help: 'Deletes held back because too many came at once',
    read: (map) => map.held,
  },
  {
    name: 'expired_total',
    kind: 'counter',
    help: 'Registers deleted by this node because their time to live was over',
    read: (map) => map.expired,
  },
  {
    name: 'refused_total',
    kind: 'counter',
    help: 'Registers and local writes that were refused because of the list of writers',
    read: (map) => map.refused,
  },
  {
    name: 'last_sweep_timestamp_seconds',
    kind: 'gauge',
    help: 'When the last sweep ended, seconds since 1970',
    read: (map) => (map.lastSweep === null ? null : map.lastSweep.atMs / 1000),
  },
  {
    name: 'last_sweep_duration_seconds',
    kind: 'gauge',
    help: 'How long the last sweep took',
    read: (map) => (map.lastSweep === null ? null : map.lastSweep.durationMs / 1000),
  },
  { name: 'problems', kind: 'gauge', help: 'Problems of the map', read: (map) => map.problems.length },
  {
    name: 'live',
    kind: 'gauge',
    help: '1 when the map is in step',
    read: (map) => Number(map.state === 'live'),
  },
  {
    name: 'standby',
    kind: 'gauge',
    help: '1 while the kernel map is left alone until it is committed',
    read: (map) => Number(map.state === 'standby'),
  },
];

interface NodeFigure {
  readonly name: string;
  readonly help: string;
  readonly read: (status: StatusReport) => number;
}

const NODE_FIGURES: readonly NodeFigure[] = [
  { name: 'ready', help: '1 when the node has caught up with its mesh', read: ({ ready }) => Number(ready) },
  { name: 'degraded', help: '1 when something needs a human', read: ({ degraded }) => Number(degraded) },
  {
    name: 'uptime_seconds',
    help: 'Time since the agent started',
    read: ({ uptimeSeconds }) => uptimeSeconds,
  },
];

export function createMetrics(control: AgentControl): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const updates = [nodeMetrics(registry), peerMetrics(registry), mapMetrics(registry)];
  return {
    contentType: registry.contentType,
    text: () => {
      const status = control.status();
      for (const update of updates) update(status);
      return registry.metrics();
    },
  };
}

type Update = (status: StatusReport) => void;

function nodeMetrics(registry: Registry): Update {
  const registers = [registry];
  const info = new Gauge({
    name: 'mapmesh_info',
    help: 'Always 1; the labels say which node this is',
    labelNames: ['version', 'cluster', 'peer_id'],
    registers,
  });
  const figures = NODE_FIGURES.map(({ name, help, read }) => {
    return { gauge: new Gauge({ name: `mapmesh_${name}`, help, registers }), read };
  });
  return (status) => {
    info.set({ version: status.version, cluster: status.cluster, peer_id: status.peerId }, 1);
    for (const { gauge, read } of figures) gauge.set(read(status));
  };
}

function peerMetrics(registry: Registry): Update {
  const registers = [registry];
  const labelNames = ['peer_id'];
  const count = new Gauge({
    name: 'mapmesh_peers',
    help: 'Connected peers',
    labelNames: ['direction'],
    registers,
  });
  const roundTrip = new Gauge({
    name: 'mapmesh_peer_round_trip_seconds',
    help: 'Smoothed round-trip time to a peer',
    labelNames,
    registers,
  });
  const rejected = new Counter({
    name: 'mapmesh_peer_rejected_messages_total',
    help: 'Messages of a peer that were rejected, since it connected',
    labelNames,
    registers,
  });
  return ({ peers }) => {
    const towards = (direction: PeerReport['direction']) =>
      peers.filter((peer) => peer.direction === direction);
    for (const direction of ['inbound', 'outbound'] as const)
      count.set({ direction }, towards(direction).length);
    // Peers come and go: a series of one that went must not stay.
    roundTrip.reset();
    rejected.reset();
    for (const peer of peers) {
      if (peer.rttMs !== null) roundTrip.set({ peer_id: peer.peerId }, peer.rttMs / 1000);
      rejected.inc({ peer_id: peer.peerId }, peer.rejected);
    }
  };
}

function mapMetrics(registry: Registry): Update {
  const figures = MAP_FIGURES.map(({ name, kind, help, read }) => {
    const settings = { name: `mapmesh_map_${name}`, help, labelNames: ['map'], registers: [registry] };
    return { metric: kind === 'gauge' ? new Gauge(settings) : new Counter(settings), read };
  });
  return ({ maps }) => {
    for (const { metric, read } of figures) {
      // A counter of prom-client cannot be set; the totals are the agent's.
      metric.reset();
      for (const map of maps) {
        const value = read(map);
        if (value !== null) metric.inc({ map: map.name }, value);
      }
    }
  };
}
