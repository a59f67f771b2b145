/**
 * The catalog of one node: the signed changes that it has, who may make them, and the document that they make.
 *
 * Two nodes that have the same changes have the same catalog, whatever the order in which these came. That also holds for
 * who may edit (editors.ts): a change counts if its author is on the list of editors, or if the list's maker had it and said
 * so. So an editor that was struck off can add nothing, not even to the past. Of changes that their author has folded
 * together (fold.ts) only that is kept.
 *
 *     const catalog = new Catalog({ ...signer, verify, clientId }, 'default');
 *     const bytes = catalog.edit((draft) => draft.resizeMap('m', 99));      // to publish
 *     catalog.receive(bytesOfAPeer);                                    // true: it was new
 */
import { createHash } from 'node:crypto';
import { MapmeshError } from '../core/errors.js';
import {
  type CatalogContent,
  CatalogDocument,
  type CatalogDraft,
  mergedUpdate,
  readUpdate,
} from './document.js';
import { counts, Editors, names } from './editors.js';
import {
  type EditorsList,
  type Envelope,
  type EnvelopeBody,
  type EnvelopeSigner,
  HASH_BYTES,
  isList,
  isUpdate,
  LAMPORT_MAX,
  openEnvelope,
  sealEnvelope,
  type UpdateEnvelope,
  type VerifySignature,
} from './envelope.js';
import { Contents, replaces, runsOf } from './fold.js';
import { EDITORS_MAX, FOLD_CHANGES_MIN, OWN_SHARE_MAX, UPDATES_BYTES_MAX, UPDATES_MAX } from './limits.js';

export interface CatalogComponents extends EnvelopeSigner {
  readonly verify: VerifySignature;
  /** 53 random bits, other ones each time. */
  clientId(): number;
}

export class Catalog {
  readonly #components: CatalogComponents;
  readonly #cluster: string;
  readonly #editors = new Editors();
  readonly #updates = new Map<string, UpdateEnvelope>();
  /** Of the updates. */
  #bytes = 0;
  /** What is in each update. */
  readonly #contents = new Contents();
  readonly #document: CatalogDocument;
  /** Changes refused because their author is no editor. */
  refused = 0;
  /** Why changes of others are not taken in; null if they are. */
  problem: string | null = null;
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
    return [...this.#editors.rule.editors].toSorted();
  }

  /** Equal on two nodes exactly when their catalogs are. */
  get digest(): string {
    const digest = createHash('sha256');
    for (const hash of this.#all.map((each) => each.hash).toSorted()) digest.update(hash);
    return digest.digest('hex').slice(0, 16);
  }

  /** All changes, in an order in which another catalog can take them. */
  get envelopes(): readonly Uint8Array[] {
    return this.#all.map(({ bytes }) => bytes);
  }

  /** Lists first: so nobody who takes them in one by one drops one for want of a list. */
  get #all(): Envelope[] {
    return [...this.#editors.lists, ...this.#updates.values()];
  }

  /** Hashes of all changes, one behind the other. */
  hashes(): Uint8Array {
    return Buffer.from(this.#all.map(({ hash }) => hash).join(''), 'hex');
  }

  /** Changes that who has these hashes lacks. @throws MapmeshError ERR_WIRE */
  missing(hashes: Uint8Array): Uint8Array[] {
    if (hashes.length % HASH_BYTES !== 0)
      throw new MapmeshError('ERR_WIRE', 'Cannot read hashes of the catalog: the last one is cut off');
    const theirs = new Set<string>();
    for (let at = 0; at < hashes.length; at += HASH_BYTES)
      theirs.add(Buffer.from(hashes.subarray(at, at + HASH_BYTES)).toString('hex'));
    return this.#all.filter(({ hash }) => !theirs.has(hash)).map(({ bytes }) => bytes);
  }

  mayEdit(author = this.#author): boolean {
    return names(this.#editors.rule, author);
  }

  /**
   * Takes in a change that a peer made or passes on.
   * @returns whether it is kept now and was not before. Not a list of editors that came before the first one of its line
   * @throws MapmeshError ERR_WIRE, ERR_SIGNATURE, ERR_LIMIT; ERR_EDITOR if its author may not edit
   */
  receive(bytes: Uint8Array): boolean {
    return this.receiveAll([this.open(bytes)], (error) => {
      throw error;
    });
  }

  /** Reads a change, whoever made it, for {@link receiveAll}. @throws MapmeshError ERR_WIRE, ERR_SIGNATURE */
  open(bytes: Uint8Array): Envelope {
    return openEnvelope(bytes, this.#cluster, this.#components.verify);
  }

  /**
   * Takes in many changes as one, so that nobody acts upon what the catalog said in the past: {@link onChange} is called once.
   * @param onRefused told why one is not taken in; those behind it are nevertheless. As {@link receive} throws it
   * @returns whether one is kept now that was not before
   */
  receiveAll(envelopes: readonly Envelope[], onRefused: (error: MapmeshError) => void): boolean {
    let isChanged = this.#takeLists(envelopes.filter(isList), onRefused);
    for (const update of envelopes.filter(isUpdate)) {
      try {
        isChanged = this.#take(update) || isChanged;
      } catch (error) {
        if (!(error instanceof MapmeshError)) throw error;
        onRefused(error);
      }
    }
    if (isChanged) this.onChange();
    return isChanged;
  }

  /** @returns whether one is kept now that was not before */
  #takeLists(lists: readonly EditorsList[], onRefused: (error: MapmeshError) => void): boolean {
    if (!this.#editors.take(lists, (reason) => onRefused(this.#refusal(reason)))) return false;
    const struck = [...this.#updates.values()].filter((each) => !this.admits(each));
    for (const each of struck) this.#drop(each);
    this.refused += struck.length;
    return true;
  }

  /**
   * Changes the document here.
   * @returns what to publish; null if nothing has changed
   * @throws MapmeshError ERR_EDITOR, ERR_LIMIT, and what the draft throws; nothing has changed then
   */
  edit(change: (draft: CatalogDraft) => void): Uint8Array | null {
    this.#checkMayEdit();
    const update = this.#document.edit(change);
    return update === null ? null : this.#addOwn(update);
  }

  /**
   * Sets who may edit.
   * @param editors public keys in hex; none: every member
   * @returns what to publish
   * @throws MapmeshError ERR_EDITOR, ERR_LIMIT, ERR_USAGE if every member may already; nothing has changed then
   */
  setEditors(editors: readonly string[]): Uint8Array {
    this.#checkMayEdit();
    if (!this.#editors.hasRank(this.#author))
      throw new MapmeshError('ERR_EDITOR', 'Cannot set the editors: this node was never one of them', {
        hint: 'All may edit now, but only who was on a list may make one.',
      });
    if (editors.length > EDITORS_MAX)
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot name ${editors.length} editors: expected at most ${EDITORS_MAX}`,
      );
    if (editors.length === 0 && this.editors.length === 0)
      throw new MapmeshError('ERR_USAGE', 'Cannot let every member edit the catalog: it is so already');
    const { lists } = this.#editors;
    const named = new Set(editors);
    const keeps = new Set([...lists, ...this.#keptOf(named)].map(({ hash }) => hash));
    const first = lists[0]?.hash ?? null;
    const list = this.#seal({ type: 'editors', first, editors: named, keeps }, lists);
    if (!this.#editors.wouldRule(list))
      throw new MapmeshError(
        'ERR_LIMIT',
        `Cannot set the editors: there are ${lists.length} lists by who was named before this node, or with the greatest number`,
        { hint: 'Set them on the node that made the first list.' },
      );
    this.#takeLists([list], () => undefined);
    this.onChange();
    return list.bytes;
  }

  /** Changes that stay although their authors are not named. In a full catalog, what those made goes who are struck off now. */
  #keptOf(named: ReadonlySet<string>): UpdateEnvelope[] {
    const isFull = !this.#hasRoom(this.#updates.size + 1, this.#bytes + 1, OWN_SHARE_MAX);
    return [...this.#updates.values()].filter(
      ({ hash, author }) => !named.has(author) && (!isFull || this.#editors.rule.keeps.has(hash)),
    );
  }

  /**
   * Folds this node's own changes together if there are many.
   * @param fewerMin if that makes it so many fewer
   * @returns what to publish
   */
  fold(fewerMin = FOLD_CHANGES_MIN): Uint8Array[] {
    if (!this.mayEdit()) return [];
    const runs = runsOf([...this.#updates.values()].filter(({ author }) => author === this.#author));
    if (runs.reduce((sum, { length }) => sum + length - 1, 0) < fewerMin) return [];
    return runs.map((run) => this.#addOwn(mergedUpdate(run.map(({ body }) => body.update))));
  }

  /** @returns likewise. @throws MapmeshError ERR_EDITOR, ERR_LIMIT, ERR_WIRE */
  #take(envelope: UpdateEnvelope): boolean {
    if (this.#updates.has(envelope.hash)) return false;
    if (!this.admits(envelope)) throw this.#refusal('its author is not on the list of editors');
    return this.#add(envelope, 1);
  }

  /** Whether a change of the document is taken in, and kept. */
  admits(envelope: UpdateEnvelope): boolean {
    return counts(envelope, this.#editors.rule);
  }

  #refusal(reason: string): MapmeshError {
    this.refused++;
    return new MapmeshError('ERR_EDITOR', `Cannot take a change of the catalog: ${reason}`);
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

  #addOwn(update: Uint8Array): Uint8Array {
    const envelope = this.#seal({ type: 'update', update }, [...this.#updates.values()]);
    this.#add(envelope, OWN_SHARE_MAX);
    this.onChange();
    return envelope.bytes;
  }

  /** @param past of the same kind: what a later number than that of these says */
  #seal<Body extends EnvelopeBody>(body: Body, past: readonly Envelope[]) {
    const greatest = Math.max(0, ...past.map((each) => each.lamport));
    return sealEnvelope(this.#components, this.#cluster, Math.min(LAMPORT_MAX, 1 + greatest), body);
  }

  #hasRoom(count: number, bytes: number, share: number): boolean {
    return count <= UPDATES_MAX * share && bytes <= UPDATES_BYTES_MAX * share;
  }

  /** @param replaced what goes for it. @throws MapmeshError ERR_LIMIT */
  #checkRoom(envelope: UpdateEnvelope, replaced: readonly UpdateEnvelope[], share: number): void {
    const count = this.#updates.size + 1 - replaced.length;
    const bytes = replaced.reduce(
      (sum, each) => sum - each.bytes.length,
      this.#bytes + envelope.bytes.length,
    );
    const isNoMore = count <= this.#updates.size && bytes <= this.#bytes;
    if (isNoMore || this.#hasRoom(count, bytes, share)) return;
    if (share === 1) this.problem = 'the catalog is full: changes made on other nodes are not taken in';
    throw new MapmeshError(
      'ERR_LIMIT',
      `Cannot change the catalog: it has ${this.#updates.size} changes of ${this.#bytes} bytes, expected at most ` +
        `${UPDATES_MAX * share} of ${UPDATES_BYTES_MAX * share}`,
      {
        hint: 'What it says holds, and maps go on to be replicated. Strike off whoever fills it ("mapmesh map editors").',
      },
    );
  }

  /**
   * @param share of the catalog's room that there is for it
   * @returns false if another change has all that it has
   * @throws MapmeshError ERR_LIMIT, ERR_WIRE
   */
  #add(envelope: UpdateEnvelope, share: number): boolean {
    const { hash, body, author } = envelope;
    const { spans, entries } = readUpdate(body.update);
    const content = { hash, spans };
    const near = this.#contents.near(author, content);
    if (near.some((each) => replaces(each, content))) return false;
    const replaced = near
      .filter((each) => replaces(content, each))
      .map((each) => this.#updates.get(each.hash)!);
    this.#checkRoom(envelope, replaced, share);
    for (const each of replaced) this.#drop(each);
    this.#updates.set(hash, envelope);
    this.#bytes += envelope.bytes.length;
    this.#contents.add(author, content);
    this.#document.add(hash, entries);
    this.problem = null;
    return true;
  }

  #drop({ hash, author, bytes }: UpdateEnvelope): void {
    if (!this.#updates.delete(hash)) return;
    this.#bytes -= bytes.length;
    this.#contents.delete(author, hash);
    this.#document.delete(hash);
    this.problem = null;
  }
}
