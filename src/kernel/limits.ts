/** Sizes that the kernel side can handle. */

/** The kernel's BPF_OBJ_NAME_LEN, less the NUL. Loaders cut longer names down to this. */
export const KERNEL_NAME_BYTES_MAX = 15;
