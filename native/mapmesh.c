// SPDX-License-Identifier: Apache-2.0
/* What is of the library as a whole: the text of the last errors, and the ABI check. */
#define _GNU_SOURCE
#include "mapmesh.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/libbpf.h>

#include "../bpf/capture.h"

/* ---- errors ---- */

/* A verifier log can be megabytes; its start names the program and its end the reason. */
#define MM_ERROR_HEAD 4096
#define MM_ERROR_TAIL 12288

static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static char error_text[MM_ERROR_HEAD + MM_ERROR_TAIL + 1];
static uint32_t error_bytes;

static void error_append(const char *text, uint32_t bytes)
{
	if (bytes > MM_ERROR_TAIL) {
		text += bytes - MM_ERROR_TAIL;
		bytes = MM_ERROR_TAIL;
	}
	if (error_bytes + bytes > MM_ERROR_HEAD + MM_ERROR_TAIL) {
		uint32_t drop = error_bytes + bytes - (MM_ERROR_HEAD + MM_ERROR_TAIL);

		memmove(error_text + MM_ERROR_HEAD, error_text + MM_ERROR_HEAD + drop,
			error_bytes - MM_ERROR_HEAD - drop);
		error_bytes -= drop;
	}
	memcpy(error_text + error_bytes, text, bytes);
	error_bytes += bytes;
}

static int on_libbpf_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	char *line = NULL;
	int bytes;

	if (level != LIBBPF_WARN)
		return 0;
	bytes = vasprintf(&line, format, arguments);
	if (bytes < 0)
		return 0;
	pthread_mutex_lock(&error_lock);
	error_append(line, bytes);
	pthread_mutex_unlock(&error_lock);
	free(line);
	return bytes;
}

int mm_last_error(char *out, uint32_t out_bytes)
{
	uint32_t bytes;

	pthread_mutex_lock(&error_lock);
	bytes = error_bytes < out_bytes ? error_bytes : out_bytes;
	memcpy(out, error_text, bytes);
	pthread_mutex_unlock(&error_lock);
	return bytes;
}

void mm_clear_error(void)
{
	pthread_mutex_lock(&error_lock);
	error_bytes = 0;
	pthread_mutex_unlock(&error_lock);
}

__attribute__((constructor)) static void on_load(void)
{
	libbpf_set_print(on_libbpf_print);
}

/* ---- ABI ---- */

_Static_assert(sizeof(struct mm_record) == 40, "src/core/ring-record.ts decodes this layout");
_Static_assert(sizeof(struct mm_map_info) == 48, "src/kernel/kernel-map.ts decodes this layout");

int mm_abi(struct mm_abi *out, uint32_t out_bytes)
{
	if (out_bytes != sizeof(*out))
		return -EINVAL;
	*out = (struct mm_abi){
		.version = MM_ABI_VERSION,
		.record_bytes = sizeof(struct mm_record),
		.map_info_bytes = sizeof(struct mm_map_info),
		.dump_bytes = sizeof(struct mm_dump),
		.record_bytes_max = MM_RECORD_BYTES_MAX,
		.key_bytes_max = MM_KEY_BYTES_MAX,
		.value_bytes_max = MM_VALUE_BYTES_MAX,
		.slots = MM_SLOTS,
	};
	return 0;
}
