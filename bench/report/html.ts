/** The report: one HTML file that needs nothing else. */
import type { Figure, RunRecord } from '../figures.js';
import { judged, numberText, rangeText } from '../table.js';
import { chartsOf } from './charts.js';

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:first-child { white-space: normal; }
td.number, th.number { text-align: right; }
td.met { color: #176b2c; font-weight: 600; } td.missed { color: #b3261e; font-weight: 600; }
p.note { color: #555; } figure { margin: 0.5rem 0 0; }
`;

export function htmlOf(record: RunRecord): string {
  const { machine, remarks, stage } = record;
  const charts = chartsOf(record).map(
    ({ title, text, html }) => `<h2>${escaped(title)}</h2>\n<p class="note">${escaped(text)}</p>\n${html}`,
  );
  const where =
    `${machine.cores} x ${machine.cpu}, ${machine.memoryGb} GB, ${machine.system}, Linux ${machine.kernel}, ` +
    `Node ${machine.node}; mapmesh ${machine.commit}`;
  const how = stage === 'kernel' ? 'real kernel maps' : 'memory: maps, through the API';
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>mapmesh benchmark</title><style>${STYLE}</style></head>
<body>
<h1>mapmesh benchmark</h1>
<p>${escaped(record.startedAt.slice(0, 16).replace('T', ' '))} UTC, ${record.durationS.toFixed(0)} s, on ${escaped(where)}.
Agents are processes of their own on loopback TCP, with ${how}. Load average before: ${machine.loadBefore.toFixed(2)}.</p>
${charts.join('\n')}
<h2>Figures</h2>
<p class="note">The median and the range of repetitions. Floor: how many times the raw TCP of the same run.</p>
<table>
<tr><th>what</th><th class="number">value</th><th>unit</th><th class="number">range</th><th class="number">floor</th><th class="number">target</th><th>verdict</th></tr>
${record.figures.map(rowOf).join('\n')}
</table>
${remarks.map(({ scenario, text }) => `<p class="note">${escaped(scenario)}: ${escaped(text)}</p>`).join('\n')}
</body>
</html>
`;
}

function rowOf(figure: Figure): string {
  const { wanted, verdict } = judged(figure);
  const floor = figure.timesFloor === null ? '' : `${numberText(figure.timesFloor)}x`;
  const number = (text: string): string => `<td class="number">${escaped(text)}</td>`;
  return [
    `<tr><td>${escaped(figure.what)}</td>`,
    number(numberText(figure.value)),
    `<td>${escaped(figure.unit)}</td>`,
    number(rangeText(figure)),
    number(floor),
    number(wanted),
    `<td class="${verdict.split(' ')[0]}">${escaped(verdict)}</td></tr>`,
  ].join('');
}

function escaped(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}
