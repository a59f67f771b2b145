/** Settings: flags, files, both, and everything that can be wrong with them. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { loadConfigFile, parseConfig } from '../../src/config/config-file.js';
import { nearestWord } from '../../src/config/nearest-word.js';
import { policyFor } from '../../src/config/policies.js';
import {
  type AgentSettings,
  flagSettings,
  resolveSettings,
  SETTING_NAMES,
  type SettingsChecks,
} from '../../src/config/settings.js';
import { formatApiAddress, parseApiAddress } from '../../src/core/api-address.js';
import { MapmeshError } from '../../src/core/errors.js';
import { formatPolicy } from '../../src/core/map-policy.js';

/** Takes what starts with the right character, so that problems can be made at will. */
const startsWith = (character: string, what: string) => (text: string) => {
  if (!text.startsWith(character)) {
    throw new MapmeshError('ERR_CONFIG', `Cannot use ${what} "${text}": wrong, expected ${character}...`);
  }
};
const CHECKS: SettingsChecks = {
  multiaddr: startsWith('/', 'multiaddr'),
  selector: startsWith('i', 'selector'),
  peerId: startsWith('1', 'PeerId'),
};

const fromFlags = (flags: Record<string, unknown>) => resolveSettings([flagSettings(flags, '/cwd')], CHECKS);
const fromFile = (yaml: string) => resolveSettings([parseConfig(yaml, 'mesh.yaml')], CHECKS);

/** Lines of the problems, without the headline. */
function problems(resolving: () => AgentSettings): string[] {
  try {
    resolving();
  } catch (error) {
    assert.ok(error instanceof MapmeshError, String(error));
    assert.equal(error.code, 'ERR_CONFIG');
    const [headline, ...lines] = error.message.split('\n');
    assert.match(headline!, /^Cannot use these settings: \d+ problems?$/);
    return lines.map((line) => line.trim());
  }
  return assert.fail('there were no problems');
}

const WRITERS = [
  '12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp',
  '12D3KooWBmAwcd4PJNJvfV89HwE48nwkRmAgo8Vy3uQEyNNHBox2',
];

describe('settings', () => {
  it('have defaults', () => {
    assert.deepEqual(fromFlags({}), {
      maps: [],
      pinRoot: null,
      bootstrap: [],
      listen: ['/ip4/0.0.0.0/tcp/7600'],
      cluster: 'default',
      secretFile: null,
      allow: [],
      dataDir: null,
      api: { host: '127.0.0.1', port: 7601 },
      capture: 'auto',
      sweepIntervalMs: 10_000,
      reconcileIntervalMs: 5_000,
      logLevel: 'info',
      ringBytes: 16 * 1024 * 1024,
      skewMsMax: 500,
      lonelyAfterMs: 60_000,
      forgetAfterMs: 86_400_000,
      tombstoneMsMin: 60_000,
      tombstonesMax: 1_000_000,
      deleteGuardPercent: 50,
      evicted: [],
      policies: [],
    });
    assert.deepEqual(fromFile(''), fromFlags({}));
  });

  it('are the same from flags and from a file', () => {
    const flags = fromFlags({
      map: ['a=id:1', 'b.c=id:2'],
      bootstrap: ['/x', '/y'],
      listen: ['/z'],
      cluster: 'prod',
      'secret-file': '/s',
      allow: ['1a'],
      'data-dir': '/d',
      api: '[::1]:0',
      capture: 'sweep',
      'sweep-interval-ms': '250',
      'reconcile-interval-ms': '300',
      'log-level': 'debug',
      'ring-bytes': '65536',
      'skew-ms-max': '50',
      'delete-guard': '30',
      evicted: ['a=restore', 'b.c=leave'],
      policy: [`a:ttl-ms=60000 writers=${WRITERS}`, 'b.c: mode=standby  delete-guard=20'],
    });
    const file = fromFile(`
map: { a: id:1, b.c: id:2 }
bootstrap: [/x, /y]
listen: /z
cluster: prod
secret-file: /s
allow: 1a
data-dir: /d
api: '[::1]:0'
capture: sweep
sweep-interval-ms: 250
reconcile-interval-ms: 300
log-level: debug
ring-bytes: 65536
skew-ms-max: 50
delete-guard: 30
evicted: { a: restore, b.c: leave }
policy:
  a: { ttl-ms: 60000, writers: [${WRITERS.join(', ')}] }
  b.c: mode=standby delete-guard=20
`);
    assert.deepEqual({ ...file, policies: [] }, { ...flags, policies: [] });
    for (const settings of [file, flags]) {
      assert.deepEqual(policyFor(settings, 'a'), {
        sweepIntervalMs: 250,
        evicted: 'restore',
        deleteGuardPercent: 30,
        mode: 'live',
        ttlMs: 60_000,
        writers: WRITERS,
        writersSinceMs: 0,
      });
      // What a node says of this map goes before what the catalog says, and that before what the node says of all maps.
      const catalog = { mode: 'live', ttlMs: 5000, sweepIntervalMs: 777 } as const;
      const { mode, ttlMs, sweepIntervalMs } = policyFor(settings, 'b.c', catalog);
      assert.deepEqual([mode, ttlMs, sweepIntervalMs], ['standby', 5000, 777]);
      assert.deepEqual(formatPolicy(policyFor(settings, 'b.c')), [
        'mode=standby',
        'delete-guard=20',
        'sweep-interval-ms=250',
      ]);
    }
    assert.deepEqual(file.maps, [
      { name: 'a', selector: 'id:1' },
      { name: 'b.c', selector: 'id:2' },
    ]);
    assert.deepEqual(file.api, { host: '::1', port: 0 });
    assert.deepEqual(file.evicted, [
      { name: 'a', policy: 'restore' },
      { name: 'b.c', policy: 'leave' },
    ]);
  });

  it('of flags win over those of the file, lists as a whole', () => {
    const file = parseConfig('map: [a=id:1, b=id:2]\ncluster: prod\nskew-ms-max: 9\n', '/etc/mesh.yaml');
    const both = resolveSettings([file, flagSettings({ map: ['c=id:3'], 'skew-ms-max': '8' }, '/')], CHECKS);
    assert.deepEqual(both.maps, [{ name: 'c', selector: 'id:3' }]);
    assert.equal(both.skewMsMax, 8);
    assert.equal(both.cluster, 'prod');
  });

  it('take paths of a file from where the file is', () => {
    const file = parseConfig('data-dir: state\nsecret-file: ../key\n', '/etc/mapmesh/mesh.yaml');
    const settings = resolveSettings([file, flagSettings({ 'data-dir': 'here' }, '/cwd')], CHECKS);
    assert.equal(settings.secretFile, '/etc/key');
    assert.equal(settings.dataDir, '/cwd/here');
    assert.equal(fromFile('data-dir: state').dataDir, resolve('state'));
  });

  it('keep an = in the selector', () => {
    assert.deepEqual(fromFlags({ map: ['a=i=b=c'] }).maps, [{ name: 'a', selector: 'i=b=c' }]);
  });
});

describe('problems', () => {
  it('of a file are all told, each with its line, what is, and what was expected', () => {
    const lines = problems(() =>
      fromFile('cluster: prod\nsweep-interval-ms: soon\n\ncapture: kprobe\napi: 7601\n'),
    );
    assert.deepEqual(lines, [
      'mesh.yaml:2: sweep-interval-ms is "soon", expected a whole number of milliseconds from 50 to 86400000',
      'mesh.yaml:4: capture is "kprobe", expected auto, fentry, syscall or sweep',
      'mesh.yaml:5: api is 7601, expected HOST:PORT, for example 127.0.0.1:7601, or unix:PATH with an absolute path of at most 107 bytes',
    ]);
  });

  it('of one value are told once', () => {
    const lines = problems(() => fromFile('ring-bytes: 1e30\nsweep-interval-ms: 99999999999999999999\n'));
    assert.deepEqual(
      lines.map((line) => line.split(': ')[0]),
      ['mesh.yaml:1', 'mesh.yaml:2'],
    );
  });

  it('of elements of a list have the line of the element', () => {
    const yaml = 'map:\n  - a=id:1\n  - B=id:2\n  - a=id:3\n  - c\nbootstrap:\n  - /ok\n  - bad\n';
    const lines = problems(() => fromFile(yaml));
    assert.deepEqual(
      lines.map((line) => line.split(': ')[0]),
      ['mesh.yaml:3', 'mesh.yaml:4', 'mesh.yaml:5', 'mesh.yaml:8'],
    );
    assert.match(lines[1]!, /"a" twice/);
    assert.match(lines[3]!, /Cannot use multiaddr "bad"/);
    assert.match(problems(() => fromFile('map:\n  a: id:1\n  b: 7\n'))[0]!, /^mesh\.yaml:3: map is/);
  });

  it('of file and flags are told together', () => {
    const file = parseConfig('cluster: ""\n', 'mesh.yaml');
    const lines = problems(() =>
      resolveSettings([file, flagSettings({ 'ring-bytes': '100000' }, '/')], CHECKS),
    );
    assert.equal(lines.length, 2);
    assert.ok(
      lines.includes(
        'mesh.yaml:1: cluster is empty, expected a name of at most 64 characters A-Z a-z 0-9 . _ -, starting with a letter or a digit',
      ),
    );
    assert.ok(lines.includes('--ring-bytes: is "100000", expected a power of two from 65536 to 1073741824'));
  });

  it('name the key that was meant', () => {
    const table: Record<string, string> = {
      'sweep-interval': 'sweep-interval-ms',
      sweepIntervalMs: 'sweep-interval-ms',
      maps: 'map',
      bootsrap: 'bootstrap',
      data_dir: 'data-dir',
      secretfile: 'secret-file',
    };
    for (const [wrong, right] of Object.entries(table)) {
      const expected = `mesh.yaml:2: "${wrong}" is not a setting, did you mean "${right}"?`;
      assert.deepEqual(
        problems(() => fromFile(`cluster: a\n${wrong}: x\n`)),
        [expected],
      );
    }
    assert.match(problems(() => fromFile('zzz: 1'))[0]!, /"zzz" is not a setting, expected one of map, /);
  });

  it('of each kind are found', () => {
    const table: Record<string, unknown[]> = {
      map: ['a', '=id:1', 'a=', 'A=id:1', `${'a'.repeat(65)}=id:1`, '-a=id:1', 'a=path', 7, null],
      'pin-root': ['', null, 7],
      bootstrap: ['', 'x', 7, null],
      listen: ['x'],
      cluster: ['', 'a b', '-', 'x'.repeat(65), 7],
      'secret-file': ['', null, 7],
      allow: ['x'],
      'data-dir': ['', null],
      api: ['', 'x', ':1', 'a:', 'a:65536', 'a b:1', '::1:1', 7],
      capture: ['', 'FENTRY', 'kprobe', null],
      'sweep-interval-ms': ['', '49', 49, 86_400_001, 1.5, '1e3', '-5', 'x', null, true],
      'reconcile-interval-ms': ['0', 'x'],
      'log-level': ['verbose', 7],
      'ring-bytes': ['65537', 4096, 2 ** 31, 'x'],
      'skew-ms-max': ['0', 3_600_001],
      'lonely-after-ms': ['-1', 86_400_001],
      'forget-after-ms': ['999', 2_592_000_001],
      'tombstone-ms-min': ['x', 86_400_001],
      'tombstones-max': ['0', 1e9],
      'delete-guard': ['0', 101, '50%', 'x'],
      evicted: ['a', 'a=', '=leave', 'a=keep', 7, null, 'a=leave'],
      policy: [
        'a',
        'a:',
        ':ttl-ms=0',
        'a:ttl-ms',
        'a:ttl-ms=999',
        'a:nope=1',
        7,
        null,
        [{ a: 7 }],
        'a:ttl-ms=0',
      ],
    };
    assert.deepEqual(Object.keys(table), SETTING_NAMES);
    for (const [name, values] of Object.entries(table)) {
      for (const value of values) {
        assert.equal(
          problems(() => fromFlags({ [name]: value })).length,
          1,
          `${name}: ${JSON.stringify(value)}`,
        );
      }
    }
  });

  it('of a policy for evicted entries include a map that is not there, wherever the maps are named', () => {
    const file = parseConfig('evicted:\n  flows: restore\n  nope: leave\n', 'mesh.yaml');
    assert.deepEqual(
      problems(() => resolveSettings([file, flagSettings({ map: ['flows=id:1'] }, '/')], CHECKS)),
      ['mesh.yaml:3: evicted has the name "nope", expected that of a map (flows)'],
    );
    assert.match(
      problems(() => fromFlags({ map: ['a=id:1'], evicted: ['a=leave', 'a=restore'] }))[0]!,
      /evicted has the name "a" twice/,
    );
  });

  it('do not hide each other, whatever they are about', () => {
    const zz = 'policy has the name "zz", expected that of a map (a)';
    assert.deepEqual(
      problems(() =>
        fromFile('map: { a: id:1 }\npolicy: { zz: mode=live }\ndelete-guard: 0\nxyz: 1\n'),
      ).slice(0, 2),
      [
        `mesh.yaml:2: ${zz}`,
        'mesh.yaml:3: delete-guard is 0, expected a whole number of percent from 1 to 100',
      ],
    );
    // What is not known is not guessed at.
    assert.equal(problems(() => fromFile('map: { a: nope }\npolicy: { zz: mode=live }\n')).length, 1);
    assert.equal(problems(() => fromFile('pin-root: 7\npolicy: { zz: mode=live }\n')).length, 1);
  });

  it('of a policy do not include a map that the catalog may have', () => {
    const { policies } = fromFlags({ 'pin-root': '/sys/fs/bpf/m', policy: ['flows: mode=standby'] });
    assert.deepEqual(policies, [{ name: 'flows', policy: { mode: 'standby' } }]);
  });

  it('of a policy are all told, with the place, in either form', () => {
    const file = fromFile.bind(
      null,
      'map: { a: id:1, b: id:2 }\npolicy:\n  b: { mode: off, ttl-ms: x }\n  c: mode=live\n',
    );
    assert.deepEqual(problems(file), [
      'mesh.yaml:3: policy of "b": mode is "off", expected live or standby',
      'mesh.yaml:3: policy of "b": ttl-ms is "x", expected a whole number of milliseconds from 1000 to 31536000000, or 0',
    ]);
    assert.deepEqual(
      problems(() => fromFile('map: { a: id:1 }\npolicy:\n  a: mode=live\n  c: mode=live\n')),
      ['mesh.yaml:4: policy has the name "c", expected that of a map (a)'],
    );
    assert.match(
      problems(() => fromFlags({ map: ['a=id:1'], policy: ['a: mode=live mode=standby'] }))[0]!,
      /^--policy: Cannot read policy "mode=standby": it is given twice/,
    );
  });

  it('of YAML itself have a line', () => {
    assert.match(problems(() => fromFile('cluster: a\nmap: [a,\n'))[0]!, /^mesh\.yaml:[23]: not YAML: /);
    assert.deepEqual(
      problems(() => fromFile('cluster: a\ncluster: b\n')),
      ['mesh.yaml:2: cluster is given twice, expected each setting once'],
    );
    assert.deepEqual(
      problems(() => fromFile('cluster: a\n---\ncluster: b\n')),
      ['mesh.yaml:2: a second YAML document begins ("---"), expected one'],
    );
    for (const deep of [
      '['.repeat(3000),
      `${'['.repeat(3000)}${']'.repeat(3000)}`,
      `\n${'- '.repeat(8000)}x`,
    ])
      assert.match(problems(() => fromFile(`map: ${deep}`))[0]!, /nested too deeply/);
    assert.match(problems(() => fromFile('- a\n'))[0]!, /not a mapping/);
    assert.match(problems(() => fromFile('just text'))[0]!, /not a mapping/);
    assert.match(problems(() => fromFile('listen: *gone\n'))[0]!, /^mesh\.yaml/);
  });

  it('of the file as such are told', () => {
    const dir = mkdtempSync(join(tmpdir(), 'mapmesh-test-'));
    const isConfigError = (error: unknown) => error instanceof MapmeshError && error.code === 'ERR_CONFIG';
    assert.throws(() => loadConfigFile(join(dir, 'none.yaml')), isConfigError);
    assert.throws(() => loadConfigFile(dir), isConfigError);
    writeFileSync(join(dir, 'huge.yaml'), '#'.repeat(1024 * 1024 + 1));
    assert.throws(() => loadConfigFile(join(dir, 'huge.yaml')), isConfigError);
    rmSync(dir, { recursive: true });
  });

  it('are the only way in which any text fails', () => {
    const names = fc.constantFrom(...SETTING_NAMES, 'x', '&a', '? ', '"');
    const values = fc.oneof(fc.string(), fc.constantFrom('*a', '[', '{a: 1}', '|', '!!map', '<<: 1', '\t'));
    const yaml = fc
      .array(fc.tuple(names, values))
      .map((lines) => lines.map(([a, b]) => `${a}: ${b}`).join('\n'));
    fc.assert(
      fc.property(yaml, (text) => {
        try {
          fromFile(text);
        } catch (error) {
          assert.ok(error instanceof MapmeshError && error.code === 'ERR_CONFIG', String(error));
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('the address of an API', () => {
  it('reads back what was written', () => {
    const hosts = fc.oneof(fc.ipV4(), fc.ipV6(), fc.constantFrom('localhost', 'fw-1.example.net'));
    fc.assert(
      fc.property(hosts, fc.integer({ min: 0, max: 65_535 }), (host, port) => {
        assert.deepEqual(parseApiAddress(formatApiAddress({ host, port })), { host, port });
      }),
    );
    const path = '/run/mapmesh 1.sock';
    assert.deepEqual(parseApiAddress(formatApiAddress({ path })), { path });
  });

  it('may be a path, absolute and of at most 107 bytes', () => {
    const longest = `/${'é'.repeat(53)}`;
    for (const settings of [fromFlags({ api: `unix:${longest}` }), fromFile(`api: unix:${longest}`)]) {
      assert.deepEqual(settings.api, { path: longest });
    }
    for (const path of ['', 'x', './x', '~/x', `${longest}x`, '/a\0b', '/a\nb']) {
      assert.match(problems(() => fromFlags({ api: `unix:${path}` }))[0]!, /^--api: is "unix:/);
    }
    // A host of that name.
    assert.deepEqual(fromFlags({ api: 'unix:7601' }).api, { host: 'unix', port: 7601 });
  });
});

describe('nearest word', () => {
  it('finds a word with one mistake and stays silent about another word', () => {
    fc.assert(
      fc.property(fc.constantFrom(...SETTING_NAMES), fc.nat(), (name, at) => {
        const i = at % name.length;
        if (name.length >= 6)
          assert.equal(nearestWord(name.slice(0, i) + name.slice(i + 1), SETTING_NAMES), name);
      }),
    );
    assert.equal(nearestWord('completely-different', SETTING_NAMES), undefined);
  });
});
