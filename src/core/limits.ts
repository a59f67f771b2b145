/** Bounds of the core, each with its reason. Bounds of the network are in mesh/limits.ts. */

/** Largest frame: four of them fit a peer's read buffer, and a thousand small registers fit one. */
export const FRAME_BYTES_MAX = 256 * 1024;

/** A batch is closed at this size: gossip's cost per byte is lowest from 16 to 64 KiB (FACTS: half of 64 KiB frames'
 * cost is per message). Only a single register larger than this makes a larger batch. */
export const BATCH_BYTES_TARGET = 60 * 1024;

/** Largest key: MAX_BPF_STACK, the kernel's own bound for keys that programs use. Capture copies keys whole
 * (MM_KEY_BYTES_MAX in bpf/capture.h). */
export const KEY_BYTES_MAX = 512;

/** Largest value, all CPUs together: a frame holds one with its proof, and room to spare. */
export const VALUE_BYTES_MAX = 64 * 1024;
