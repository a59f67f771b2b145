/** Bounds of the catalog. It is a small document that people edit: each bound is far above what that needs. */

/** One change with its signature: a map with the largest types that may travel, and far under the mesh's 256 KiB. */
export const ENVELOPE_BYTES_MAX = 128 * 1024;
/** Changes kept. Their hashes, which two nodes compare, fit into one frame. */
export const ENVELOPES_MAX = 4096;
/** Bytes of all changes together: what a node that joins takes, and what is written to disk at each change. */
export const CATALOG_BYTES_MAX = 4 * 1024 * 1024;
/** Of these, lists of editors have a room of their own: however full the catalog is, who filled it can be struck off. */
export const LISTS_MAX = 256;
export const LISTS_BYTES_MAX = 1024 * 1024;
export const UPDATES_MAX = ENVELOPES_MAX - LISTS_MAX;
export const UPDATES_BYTES_MAX = CATALOG_BYTES_MAX - LISTS_BYTES_MAX;
/** Lists of one author. */
export const LISTS_OF_ONE_MAX = 8;
/** A node folds its own changes together (fold.ts) when that makes it so many fewer. Less often costs room, more often what is
 * signed and sent anew: up to {@link FOLD_BYTES_MAX} each time. */
export const FOLD_CHANGES_MIN = 64;
/** Of the changes that are folded into one, together; that is smaller than they are. */
export const FOLD_BYTES_MAX = 64 * 1024;
/** Share of the room for other changes that this node's own may fill, so that there is some for those that come from others. */
export const OWN_SHARE_MAX = 0.75;
/** Types of key and value of one map, cut down to what they need. */
export const BTF_BYTES_MAX = 64 * 1024;
/** Members that may be named as editors. */
export const EDITORS_MAX = 256;
/** Maps that the catalog speaks of: more than an agent can watch. */
export const MAPS_MAX = 256;
/** Entries of one map: what the kernel takes. */
export const MAP_ENTRIES_MAX = 2 ** 31;
