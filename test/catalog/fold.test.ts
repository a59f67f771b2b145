/** Which changes replace which, and where they are looked for. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { type Content, Contents, joined, replaces } from '../../src/catalog/fold.js';

it('a change that replaces another is found beside it, also after others are gone', () => {
  const span = fc.record({
    of: fc.constantFrom('1', '1 deleted', '2', '3'),
    from: fc.nat({ max: 4 }),
    length: fc.integer({ min: 1, max: 4 }),
  });
  const change = fc.record({
    author: fc.constantFrom('a', 'b'),
    spans: fc.array(span, { maxLength: 3 }),
    goes: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 12 }), (changes) => {
      const contents = new Contents();
      const all = changes.map(({ author, spans, goes }, i) => {
        const content: Content = {
          hash: `h${i}`,
          spans: joined(spans.map(({ of, from, length }) => ({ of, from, to: from + length }))),
        };
        contents.add(author, content);
        return { author, content, goes };
      });
      for (const { author, content, goes } of all) if (goes) contents.delete(author, content.hash);
      for (const { author, content } of all) {
        const near = contents.near(author, content);
        for (const other of all) {
          const isFound = near.includes(other.content);
          if (other.goes || other.author !== author) assert.equal(isFound, false);
          else if (replaces(other.content, content) || replaces(content, other.content)) assert.ok(isFound);
        }
      }
    }),
  );
});
