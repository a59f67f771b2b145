/**
 * The catalog of one node: the signed changes that it has, who may make them, and the document that they make.
 *
 * Two nodes that have the same changes have the same catalog, whatever the order in which these came. That also holds for
 * who may edit: of the changes of the editors' list that count, the last one (by lamport number, then hash) is the list. A
 * change counts if its author is on the list, or if the list's maker had it and said so. So an editor that was struck
 * off can add nothing, not even to the past.
 *
 *     const catalog = new Catalog({ ...signer, verify, clientId }, 'default');
 *     const bytes = catalog.edit((draft) => draft.resizeMap('m', 99));      // to publish
 *     catalog.receive(bytesOfAPeer);                                    // true: it was new
 */
import { createHash } from 'node:crypto';
import { MapmeshError } from '../core/errors.js';
import { type CatalogContent, CatalogDocument, type CatalogDraft } from './document.js';
import {
  type Envelope,
  type EnvelopeBody,
  type EnvelopeSigner,
  HASH_BYTES,
  openEnvelope,
  sealEnvelope,
  type VerifySignature,
} from './envelope.js';
import { CATALOG_BYTES_MAX, EDITORS_MAX, ENVELOPES_MAX, OWN_SHARE_MAX } from './limits.js';

export interface CatalogComponents extends EnvelopeSigner {
  readonly verify: VerifySignature;
  /** 32 random bits, other ones in each run. */
  clientId(): number;
}

interface EditorsRule {
  readonly editors: ReadonlySet<string>;
  readonly keeps: ReadonlySet<string>;
}

const EVERYBODY: EditorsRule = { editors: new Set(), keeps: new Set() };

export class Catalog {
  readonly #components: CatalogComponents;
  readonly #cluster: string;
  readonly #envelopes = new Map<string, Envelope>();
  #bytes = 0;
  #rule: EditorsRule = EVERYBODY;
  #document: CatalogDocument;
  /** Changes refused because their author is no editor. */
  refused = 0;
  /** Something has changed, made here or not. */
  onChange: () => void = () => undefined;

  constructor(components: CatalogComponents, cluster: string) {
    this.#components = components;
    this.#cluster = cluster;
    this.#document = new CatalogDocument(() => components.clientId());
  }

  get content(): CatalogContent {
    return this.#document.content;
  }

  /** Public keys in hex; none: every member may edit. */
  get editors(): readonly string[] {
    return [...this.#rule.editors].toSorted();
  }

  /** Equal on two nodes exactly when their catalogs are. */
  get digest(): string {
    const digest = createHash('sha256');
    for (const hash of [...this.#envelopes.keys()].toSorted()) digest.update(hash);
    return digest.digest('hex').slice(0, 16);
  }

  get envelopes(): readonly Uint8Array[] {
    return [...this.#envelopes.values()].map(({ bytes }) => bytes);
  }

  /** Hashes of all changes, one behind the other. */
  hashes(): Uint8Array {
    return Buffer.from([...this.#envelopes.keys()].join(''), 'hex');
  }

  /** Changes that who has these hashes lacks. @throws MapmeshError ERR_WIRE */
  missing(hashes: Uint8Array): Uint8Array[] {
    if (hashes.length % HASH_BYTES !== 0)
      throw new MapmeshError('ERR_WIRE', 'Cannot read hashes of the catalog: the last one is cut off');
    const theirs = new Set<string>();
    for (let at = 0; at < hashes.length; at += HASH_BYTES)
      theirs.add(Buffer.from(hashes.subarray(at, at + HASH_BYTES)).toString('hex'));
    return [...this.#envelopes.values()].filter(({ hash }) => !theirs.has(hash)).map(({ bytes }) => bytes);
  }

  mayEdit(author = this.#author): boolean {
    return this.#rule.editors.size === 0 || this.#rule.editors.has(author);
  }

  /**
   * Takes in a change that a peer made or passes on.
   * @returns whether it was new
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT; ERR_EDITOR if its author may not edit
   */
  receive(bytes: Uint8Array): boolean {
    const envelope = openEnvelope(bytes, this.#cluster, this.#components.verify);
    if (this.#envelopes.has(envelope.hash)) return false;
    if (!counts(envelope, this.#rule) && !this.#couldCount(envelope)) {
      this.refused++;
      throw new MapmeshError(
        'ERR_EDITOR',
        'Cannot take a change of the catalog: its author is not on the list of editors',
      );
    }
    this.#checkRoom(envelope, 1);
    this.#add(envelope);
    this.onChange();
    return true;
  }

  /**
   * Changes the document here.
   * @returns what to publish; null if nothing has changed
   * @throws MapmeshError ERR_EDITOR, ERR_LIMIT, and what the draft throws; nothing has changed then
   */
  edit(change: (draft: CatalogDraft) => void): Uint8Array | null {
    this.#checkMayEdit();
    try {
      const update = this.#document.edit(change);
      return update === null ? null : this.#seal({ type: 'update', update });
    } catch (error) {
      this.#rebuild(); // what was drafted is in the document
      throw error;
    }
  }

  /** Sets who may edit. @param editors public keys in hex; none: every member */
  setEditors(editors: readonly string[]): Uint8Array {
    this.#checkMayEdit();
    if (editors.length > EDITORS_MAX)
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot name ${editors.length} editors: expected at most ${EDITORS_MAX}`,
      );
    const named = new Set(editors);
    const keeps = [...this.#envelopes.values()].filter(({ author }) => !named.has(author));
    return this.#seal({ type: 'editors', editors: named, keeps: new Set(keeps.map(({ hash }) => hash)) });
  }

  get #author(): string {
    return Buffer.from(this.#components.publicKey).toString('hex');
  }

  #checkMayEdit(): void {
    if (this.mayEdit()) return;
    throw new MapmeshError(
      'ERR_EDITOR',
      'Cannot change the catalog: this node is not on its list of editors',
      {
        hint: 'Make the change on a node that is ("mapmesh map editors" lists them).',
      },
    );
  }

  #seal(body: EnvelopeBody): Uint8Array {
    const lamport = 1 + Math.max(0, ...[...this.#envelopes.values()].map((each) => each.lamport));
    const envelope = sealEnvelope(this.#components, this.#cluster, lamport, body);
    this.#checkRoom(envelope, OWN_SHARE_MAX);
    this.#add(envelope, body.type === 'update');
    this.onChange();
    return envelope.bytes;
  }

  #checkRoom({ bytes }: Envelope, share: number): void {
    if (
      this.#envelopes.size + 1 <= ENVELOPES_MAX * share &&
      this.#bytes + bytes.length <= CATALOG_BYTES_MAX * share
    )
      return;
    throw new MapmeshError(
      'ERR_LIMIT',
      `Cannot change the catalog: it has ${this.#envelopes.size} changes of ${this.#bytes} bytes, expected at most ` +
        `${ENVELOPES_MAX * share} of ${CATALOG_BYTES_MAX * share}`,
    );
  }

  /** A list that this node does not know yet may stand between the one it knows and this one. */
  #couldCount({ body, author }: Envelope): boolean {
    if (body.type !== 'editors') return false;
    return [...this.#envelopes.values()].some(
      (each) => each.body.type === 'editors' && each.body.editors.has(author),
    );
  }

  /** @param isInDocument the document has it already */
  #add(envelope: Envelope, isInDocument = false): void {
    this.#envelopes.set(envelope.hash, envelope);
    this.#bytes += envelope.bytes.length;
    const { body } = envelope;
    if (body.type === 'editors') {
      this.#judge();
      return;
    }
    if (isInDocument) return;
    try {
      this.#document.apply(body.update);
    } catch (error) {
      this.#drop(envelope);
      this.#rebuild();
      throw error;
    }
  }

  /** Finds out anew who may edit, and drops what does not count any more. */
  #judge(): void {
    this.#rule = ruleOf([...this.#envelopes.values()]);
    const dropped = [...this.#envelopes.values()].filter((each) => !counts(each, this.#rule));
    for (const envelope of dropped) this.#drop(envelope);
    this.refused += dropped.length;
    if (dropped.some(({ body }) => body.type === 'update')) this.#rebuild();
  }

  #drop(envelope: Envelope): void {
    if (this.#envelopes.delete(envelope.hash)) this.#bytes -= envelope.bytes.length;
  }

  #rebuild(): void {
    this.#document = new CatalogDocument(() => this.#components.clientId());
    for (const { body } of this.#envelopes.values()) {
      if (body.type === 'update') this.#document.apply(body.update);
    }
  }
}

/** Of the lists that were made by who might, the last one. */
function ruleOf(envelopes: readonly Envelope[]): EditorsRule {
  const lists = envelopes.filter(({ body }) => body.type === 'editors');
  lists.sort((a, b) => a.lamport - b.lamport || (a.hash < b.hash ? -1 : 1));
  let rule = EVERYBODY;
  for (const list of lists) {
    if (list.body.type === 'editors' && counts(list, rule)) rule = list.body;
  }
  return rule;
}

function counts({ author, hash, body }: Envelope, rule: EditorsRule): boolean {
  return rule === body || rule.editors.size === 0 || rule.editors.has(author) || rule.keeps.has(hash);
}
