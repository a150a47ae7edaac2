/*
 * The C interface of multifd-qpl: the methods of a multifd receiver and the
 * received map, for a program with its own sockets and guest memory.
 *
 * Made by cbindgen from src/capi; do not edit. To make it again:
 * MULTIFD_QPL_BLESS=1 cargo test --test capi
 */

#ifndef MULTIFD_QPL_H
#define MULTIFD_QPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 What a function came to. Numbers are never used again for something else.
 */
enum multifd_qpl_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /*
   Done.
   */
  MULTIFD_QPL_STATUS_OK = 0,
  /*
   An argument that must not be null is.
   */
  MULTIFD_QPL_STATUS_NULL_ARGUMENT = 1,
  /*
   An argument is outside of what it may be.
   */
  MULTIFD_QPL_STATUS_BAD_ARGUMENT = 2,
  /*
   The packet is damaged, or no source sends it. Ends the migration.
   */
  MULTIFD_QPL_STATUS_BAD_DATA = 3,
  /*
   Memory, a thread or the kernel failed us. Ends the migration.
   */
  MULTIFD_QPL_STATUS_SYSTEM = 4,
  /*
   The engine or policy that was asked for is not to be had here.
   */
  MULTIFD_QPL_STATUS_UNAVAILABLE = 5,
  /*
   The read callback said that it failed. Ends the migration.
   */
  MULTIFD_QPL_STATUS_READ = 6,
  /*
   A bug in this library. Ends the migration.
   */
  MULTIFD_QPL_STATUS_PANIC = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum multifd_qpl_status multifd_qpl_status;
#else
typedef int32_t multifd_qpl_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/*
 A RAMBlock whose memory is the caller's.
 */
typedef struct multifd_qpl_block multifd_qpl_block;

/*
 One multifd channel. Used by one thread at a time.
 */
typedef struct multifd_qpl_channel multifd_qpl_channel;

/*
 Engine and placement of one migration. May be used by all threads at once.
 */
typedef struct multifd_qpl_receiver multifd_qpl_receiver;

/*
 The pages of one packet, as byte offsets in their RAMBlock.
 */
typedef struct multifd_qpl_pages {
  /*
   Offsets of the pages that come as data, in payload order.
   */
  const uint64_t *normal;
  /*
   How many.
   */
  size_t normal_count;
  /*
   Offsets of the pages that are zero.
   */
  const uint64_t *zero;
  /*
   How many. Both together are at most 128.
   */
  size_t zero_count;
} multifd_qpl_pages;

/*
 Fills `buffer` with the next `length` bytes of the payload. Anything but 0
 is a failure, and ends the migration.
 */
typedef int (*multifd_qpl_read)(void *opaque, void *buffer, size_t length);

/*
 How a migration is to be received. Fill with zeroes for the defaults.
 */
typedef struct multifd_qpl_options {
  /*
   "auto", "iaa", "qpl-software" or "software"; null is "auto".
   */
  const char *engine;
  /*
   "place", "populate", "huge" or "fault"; null is what is best here.
   */
  const char *placement;
  /*
   Worker threads of software engines; 0 is one per core.
   */
  size_t workers;
  /*
   Number of channels, to share out packet buffers; 0 if not known.
   */
  size_t channels;
  /*
   Compare each page that a device made with the checksum it reports.
   */
  bool verify;
} multifd_qpl_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 One sentence about the last failure on the calling thread; empty before the
 first. It stays as it is until the thread's next failure.
 */
const char *multifd_qpl_last_error(void);

/*
 Version of this library, such as "0.1.0".
 */
const char *multifd_qpl_version(void);

/*
 Takes a RAMBlock in: `length` bytes at `host`, both multiples of 4096.

 `known_zero` says that every byte reads as zero now and that nobody but this
 library writes the memory until the block is freed. Then zero pages that
 come first are not touched. Memory that may hold something (a ROM, memory
 used before) is taken in with `known_zero` false: it is cleared page by page.

 Null on failure.

 # Safety

 `receiver` is null or live, `name` is null or NUL-terminated. `length` bytes
 at `host` are mapped, readable and writable, and stay so until the block is
 freed and no channel holds jobs of it.
 */
struct multifd_qpl_block *multifd_qpl_block_new(const struct multifd_qpl_receiver *receiver,
                                                const char *name,
                                                void *host,
                                                uint64_t length,
                                                bool known_zero);

/*
 Gives a RAMBlock back to the caller; null is fine. From now on pages that
 were never written read as zero.

 # Safety

 `block` is null or was made by `multifd_qpl_block_new`, is not used again,
 and every channel that has taken packets of it is drained.
 */
void multifd_qpl_block_free(struct multifd_qpl_block *block);

/*
 Whether the page at `host` has been received: 1 or 0, -1 on failure.

 # Safety

 `block` is null or live. `host` is only compared, not read.
 */
int32_t multifd_qpl_received_test(const struct multifd_qpl_block *block, const void *host);

/*
 Whether the page at a byte offset in the block has been received: 1 or 0, -1
 on failure.

 # Safety

 `block` is null or live.
 */
int32_t multifd_qpl_received_test_byte_offset(const struct multifd_qpl_block *block,
                                              uint64_t offset);

/*
 Marks the page at `host` received.

 # Safety

 `block` is null or live. `host` is only compared, not read.
 */
multifd_qpl_status multifd_qpl_received_set(const struct multifd_qpl_block *block,
                                            const void *host);

/*
 Marks `pages` pages of 4096 bytes from `host` on received.

 # Safety

 `block` is null or live. `host` is only compared, not read.
 */
multifd_qpl_status multifd_qpl_received_set_range(const struct multifd_qpl_block *block,
                                                  const void *host,
                                                  uint64_t pages);

/*
 Marks the page at a byte offset in the block received.

 # Safety

 `block` is null or live.
 */
multifd_qpl_status multifd_qpl_received_set_offset(const struct multifd_qpl_block *block,
                                                   uint64_t offset);

/*
 The received map as a source wants it in postcopy recovery: big-endian
 length, bitmap, end mark. Returns how many bytes that takes, and writes them
 if `capacity` is at least that. 0 on failure.

 # Safety

 `block` is null or live; `out` is valid for writing `capacity` bytes, or null
 if that is 0.
 */
size_t multifd_qpl_received_send(const struct multifd_qpl_block *block,
                                 uint8_t *out,
                                 size_t capacity);

/*
 Sets a channel up for one method: "none", "zlib", "zstd" or "qpl". Null on
 failure.

 # Safety

 `receiver` is null or live, `method` is null or NUL-terminated.
 */
struct multifd_qpl_channel *multifd_qpl_channel_new(const struct multifd_qpl_receiver *receiver,
                                                    const char *method);

/*
 Frees a channel; null is fine. What it has not finished is given up.

 # Safety

 `channel` is null or was made by `multifd_qpl_channel_new`, and is not used
 again.
 */
void multifd_qpl_channel_free(struct multifd_qpl_channel *channel);

/*
 Takes a packet whose payload is in memory. May return before its pages are
 in guest memory; `payload` is not needed any more then.

 # Safety

 `channel` is null or live and used by no other thread; `block` is null or
 live; `pages` is null or valid, and so are its arrays for their counts;
 `payload` is valid for reading `length` bytes, or null if that is 0.
 */
multifd_qpl_status multifd_qpl_channel_packet(struct multifd_qpl_channel *channel,
                                              const struct multifd_qpl_block *block,
                                              const struct multifd_qpl_pages *pages,
                                              const void *payload,
                                              size_t length);

/*
 Takes a packet whose payload of `length` bytes is read from the caller's
 socket, straight to where it is needed.

 # Safety

 As for `multifd_qpl_channel_packet`; `read` writes just the bytes it is asked
 for, and does not unwind.
 */
multifd_qpl_status multifd_qpl_channel_packet_read(struct multifd_qpl_channel *channel,
                                                   const struct multifd_qpl_block *block,
                                                   const struct multifd_qpl_pages *pages,
                                                   multifd_qpl_read read,
                                                   void *opaque,
                                                   size_t length);

/*
 Returns when every page taken so far is in guest memory and marked received.

 # Safety

 `channel` is null or live and used by no other thread.
 */
multifd_qpl_status multifd_qpl_channel_drain(struct multifd_qpl_channel *channel);

/*
 Sets up engine and placement. `options` may be null. Null on failure.

 # Safety

 `options` is null or points to valid options; their strings are null or
 NUL-terminated.
 */
struct multifd_qpl_receiver *multifd_qpl_receiver_new(const struct multifd_qpl_options *options);

/*
 Frees a receiver; null is fine. Blocks and channels that are left stay valid.

 # Safety

 `receiver` is null or was made by `multifd_qpl_receiver_new`, and is not used
 again.
 */
void multifd_qpl_receiver_free(struct multifd_qpl_receiver *receiver);

/*
 What engine and placement did so far, as JSON:
 `{"engine": {...}, "placement": {...}}`. Null on failure. The text lives
 until the next call on this receiver, or its end.

 # Safety

 `receiver` is null or live.
 */
const char *multifd_qpl_receiver_report(const struct multifd_qpl_receiver *receiver);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MULTIFD_QPL_H */
