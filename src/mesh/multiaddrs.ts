/**
 * Addresses: which multiaddrs are accepted, in which order a peer's addresses are tried, and what of them is
 * passed on to others. Pure; the DNS lookup is an argument.
 *
 * Only TCP over IP is spoken: `/ip4/10.0.0.1/tcp/7600`, `/ip6/::1/tcp/7600`, `/dns4/host/tcp/7600` (bootstrap only),
 * each with or without `/p2p/PEERID`. DNS names are resolved by the system's resolver (`/etc/hosts` included), never
 * by libp2p, which would ask public servers over HTTPS.
 */

import { isIP, isIPv4, isIPv6 } from 'node:net';
import { multiaddr } from '@multiformats/multiaddr';
import { MapmeshError } from '../core/errors.js';
import { isPeerId } from './identity.js';

/** How the host of an address is given. */
export type HostKind = 'ip4' | 'ip6' | 'dns' | 'dns4' | 'dns6';

export interface ParsedAddress {
  readonly kind: HostKind;
  readonly host: string;
  readonly port: number;
  /** From a trailing /p2p/PEERID, else null. */
  readonly peerId: string | null;
}

/** Longest address taken from a peer, in characters. */
export const ADDRESS_CHARS_MAX = 128;

const HOST_KINDS: readonly string[] = ['ip4', 'ip6', 'dns', 'dns4', 'dns6'];
const PORT_MAX = 65_535;
const EXAMPLE = { listen: '/ip4/0.0.0.0/tcp/7600', bootstrap: '/ip4/10.0.0.1/tcp/7600' } as const;

/**
 * Checks a --listen or --bootstrap address.
 * @throws MapmeshError ERR_MULTIADDR that names the address and what is wrong with it.
 */
export function checkMultiaddr(text: string, use: 'listen' | 'bootstrap'): ParsedAddress {
  const fail = (what: string, cause?: unknown): MapmeshError =>
    new MapmeshError(
      'ERR_MULTIADDR',
      `Cannot use ${use} address "${text}": ${what}, expected one like ${EXAMPLE[use]}`,
      {
        hint: 'mapmesh speaks TCP over IPv4 and IPv6 only; each agent prints its full addresses on start.',
        cause,
      },
    );
  const parts = splitMultiaddr(text, fail);
  const [kind = '', host = '', transport = '', portText = '', suffix, peerId, ...rest] = parts;
  if (!HOST_KINDS.includes(kind)) throw fail(`it starts with /${kind}, which is not a host`);
  if (transport === '') throw fail('it has no port');
  if (transport !== 'tcp') throw fail(`it is of kind /${transport}, which is not TCP`);
  const port = Number(portText);
  if (!Number.isInteger(port) || port < 0 || port > PORT_MAX) throw fail(`"${portText}" is not a TCP port`);
  if (suffix !== undefined && suffix !== 'p2p')
    throw fail(`it goes on with /${suffix}, which is not plain TCP`);
  if (rest.length > 0) throw fail(`it goes on with /${rest[0]} after the PeerId`);
  if (suffix === 'p2p' && use === 'listen') throw fail('it names a PeerId, which is not for listening');
  if (suffix === 'p2p' && !isPeerId(peerId ?? ''))
    throw fail(`"${peerId}" is not the PeerId of a mapmesh node`);
  if (use === 'listen' && kind.startsWith('dns')) throw fail('a DNS name cannot be listened on');
  if (use === 'bootstrap' && port === 0) throw fail('port 0 cannot be dialled');
  if (use === 'bootstrap' && isUnspecified(host)) {
    throw fail(`${host} means "every address of this host", which cannot be dialled`);
  }
  return { kind: kind as HostKind, host, port, peerId: peerId ?? null };
}

function splitMultiaddr(text: string, fail: (what: string, cause?: unknown) => MapmeshError): string[] {
  if (text === '') throw fail('it is empty');
  if (!text.startsWith('/')) {
    throw fail('it is not a multiaddr (it does not start with "/")');
  }
  try {
    multiaddr(text);
  } catch (cause) {
    throw fail('it is not a valid multiaddr', cause);
  }
  return text.split('/').filter((part) => part !== '');
}

/** `/ip4/HOST/tcp/PORT` or `/ip6/...` of an IP address. */
export function formatAddress(host: string, port: number, peerId: string | null = null): string {
  const suffix = peerId === null ? '' : `/p2p/${peerId}`;
  return `/${isIPv6(host) ? 'ip6' : 'ip4'}/${host}/tcp/${port}${suffix}`;
}

/** The IP and port of a plain TCP multiaddr that came from outside (a trailing /p2p is dropped); null for all else. */
export function parsePeerAddress(text: string): { host: string; port: number } | null {
  if (text.length > ADDRESS_CHARS_MAX) return null;
  const match = /^\/ip([46])\/([0-9a-fA-F.:]+)\/tcp\/([0-9]{1,5})(?:\/p2p\/[A-Za-z0-9]+)?$/.exec(text);
  if (match === null) return null;
  const [, family, host = '', portText] = match;
  const port = Number(portText);
  if (isIP(host) !== Number(family) || port < 1 || port > PORT_MAX) return null;
  return { host: host.toLowerCase(), port };
}

export function isLoopback(host: string): boolean {
  return host === '::1' || (isIPv4(host) && host.startsWith('127.'));
}

function isUnspecified(host: string): boolean {
  return host === '0.0.0.0' || host === '::' || host === '0:0:0:0:0:0:0:0';
}

/** Link-local addresses need an interface to be named, multicast cannot be dialled: neither is worth passing on. */
function isUnusable(host: string): boolean {
  if (isUnspecified(host)) return true;
  if (isIPv6(host)) return /^(fe[89ab]|ff)/i.test(host);
  const first = Number(host.split('.')[0]);
  return first === 0 || first >= 224 || host.startsWith('169.254.');
}

/**
 * The addresses of a peer worth trying or passing on: plain TCP, dialable, not ours, no duplicates, at most `max`.
 * Loopback addresses mean something on the peer's own host only; `sameHost` says whether that is this host.
 */
export function usableAddresses(
  addresses: readonly string[],
  options: { sameHost: boolean; max: number; own: ReadonlySet<string> },
): string[] {
  const kept = new Set<string>();
  for (const text of addresses) {
    if (kept.size >= options.max) break;
    const parsed = parsePeerAddress(text);
    if (parsed === null || isUnusable(parsed.host)) continue;
    if (isLoopback(parsed.host) && !options.sameHost) continue;
    const address = formatAddress(parsed.host, parsed.port);
    if (!options.own.has(address)) kept.add(address);
  }
  return [...kept];
}

/**
 * Orders candidates: those that worked before, then loopback (it was only kept for peers on this host), then
 * addresses in a network we have an address in, then other private ones, then the rest. Stable within a class.
 */
export function orderCandidates(
  addresses: readonly string[],
  proven: ReadonlySet<string>,
  ownHosts: readonly string[],
): string[] {
  const rank = (address: string): number => {
    if (proven.has(address)) return 0;
    const host = parsePeerAddress(address)?.host ?? '';
    if (isLoopback(host)) return 1;
    if (ownHosts.some((own) => inSameNetwork(own, host))) return 2;
    return isPrivate(host) ? 3 : 4;
  };
  return [...addresses].sort((left, right) => rank(left) - rank(right));
}

/** A guess (the same /24, or /64), good enough to order candidates. */
function inSameNetwork(own: string, host: string): boolean {
  if (isIPv4(own) !== isIPv4(host)) return false;
  if (isIPv4(own)) return own.slice(0, own.lastIndexOf('.')) === host.slice(0, host.lastIndexOf('.'));
  return own.split(':').slice(0, 4).join(':') === host.split(':').slice(0, 4).join(':');
}

function isPrivate(host: string): boolean {
  if (isIPv6(host)) return /^f[cd]/i.test(host);
  return /^(10\.|192\.168\.|172\.(1[6-9]|2[0-9]|3[01])\.|100\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\.)/.test(
    host,
  );
}

/** Resolves a name to IP addresses; node:dns `lookup` with `all: true` fits. */
export type Lookup = (host: string, family: 0 | 4 | 6) => Promise<readonly { address: string }[]>;

/** The concrete addresses behind a bootstrap address; several for a DNS name. Rejects with what the lookup rejects with. */
export async function resolveAddress(parsed: ParsedAddress, lookup: Lookup): Promise<string[]> {
  if (!parsed.kind.startsWith('dns')) return [formatAddress(parsed.host, parsed.port)];
  const family = parsed.kind === 'dns4' ? 4 : parsed.kind === 'dns6' ? 6 : 0;
  const found = await lookup(parsed.host, family);
  const usable = found.filter(({ address }) => isIP(address) !== 0);
  return [...new Set(usable.map(({ address }) => formatAddress(address, parsed.port)))];
}
