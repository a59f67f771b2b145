/** Sizes that the kernel side can handle. */

/** Largest key: capture copies keys whole (MM_KEY_BYTES_MAX in bpf/capture.h). */
export const KEY_BYTES_MAX = 512;

/** Largest value, all CPUs of a per-CPU value together: what one delta can carry with room to spare. */
export const VALUE_BYTES_MAX = 64 * 1024;

/** The kernel's BPF_OBJ_NAME_LEN, less the NUL. Loaders cut longer names down to this. */
export const KERNEL_NAME_BYTES_MAX = 15;
