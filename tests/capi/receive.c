/* Receives packets through the C interface, as a VMM with its own sockets and
 * its own guest memory would, and tries what must fail. */

#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "multifd_qpl.h"

#define PAGE 4096u
#define PAGES 1024u

#define CHECK(what)                                                           \
    do {                                                                      \
        if (!(what)) {                                                        \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #what,            \
                    multifd_qpl_last_error());                                \
            exit(1);                                                          \
        }                                                                     \
    } while (0)

/* A raw DEFLATE stream of one stored block with a page in it takes 4101 bytes,
 * more than a qpl block may; so the page is made of a fixed Huffman block that
 * repeats one byte: literal, then matches of length 258 at distance 1. */
static size_t repeat_byte(unsigned char byte, unsigned char *out)
{
    unsigned long bits = 0;
    unsigned count = 0;
    size_t len = 0;
    unsigned code, i, left = PAGE - 1;

#define PUT(value, n)                                                         \
    do {                                                                      \
        bits |= (unsigned long)(value) << count;                              \
        count += (n);                                                         \
        while (count >= 8) {                                                  \
            out[len++] = bits & 0xff;                                         \
            bits >>= 8;                                                       \
            count -= 8;                                                       \
        }                                                                     \
    } while (0)
#define PUT_CODE(value, n)                                                    \
    do { /* Huffman codes go in from their top bit */                         \
        code = 0;                                                             \
        for (i = 0; i < (n); i++)                                             \
            code |= (((unsigned)(value) >> i) & 1u) << ((n) - 1 - i);         \
        PUT(code, n);                                                         \
    } while (0)

    PUT(1, 1); /* final */
    PUT(1, 2); /* fixed codes */
    if (byte < 144)
        PUT_CODE(0x30 + byte, 8);
    else
        PUT_CODE(0x190 + byte - 144, 9);
    while (left >= 258) {
        PUT_CODE(0xc0 + 285 - 280, 8); /* length 258 */
        PUT_CODE(0, 5);                /* distance 1 */
        left -= 258;
    }
    while (left > 0) { /* 4095 = 15 * 258 + 225: length 195..226 is code 281 */
        if (left >= 195) {
            PUT_CODE(0xc0 + 283 - 280, 8); /* base 195, 5 extra bits */
            PUT(left - 195, 5);
            PUT_CODE(0, 5);
            left = 0;
        } else {
            PUT_CODE(0x30 + byte, 8);
            left--;
        }
    }
    PUT_CODE(0, 7); /* end of block */
    PUT(0, 7);
    return len;
}

static unsigned char *guest_memory(void)
{
    void *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static int filled(const unsigned char *page, unsigned char byte)
{
    unsigned i;
    for (i = 0; i < PAGE; i++)
        if (page[i] != byte)
            return 0;
    return 1;
}

struct reader {
    const unsigned char *next;
    size_t left;
};

static int read_payload(void *opaque, void *buffer, size_t length)
{
    struct reader *reader = opaque;
    if (length > reader->left)
        return -1;
    memcpy(buffer, reader->next, length);
    reader->next += length;
    reader->left -= length;
    return 0;
}

/* Two qpl pages (one compressed, one raw) and two zero pages. */
static size_t qpl_payload(unsigned char *out)
{
    unsigned char block[PAGE];
    size_t len = repeat_byte('a', block);
    const size_t lengths[2] = {len, PAGE};
    unsigned i;
    for (i = 0; i < 2; i++) {
        out[4 * i] = lengths[i] >> 24;
        out[4 * i + 1] = lengths[i] >> 16;
        out[4 * i + 2] = lengths[i] >> 8;
        out[4 * i + 3] = lengths[i];
    }
    memcpy(out + 8, block, len);
    memset(out + 8 + len, 'r', PAGE);
    return 8 + len + PAGE;
}

int main(void)
{
    static unsigned char payload[3 * PAGE];
    const uint64_t normal[2] = {5 * PAGE, 3 * PAGE};
    const uint64_t zero[2] = {6 * PAGE, 9 * PAGE};
    const uint64_t beyond[1] = {PAGES * PAGE};
    const struct multifd_qpl_pages pages = {normal, 2, zero, 2};
    struct multifd_qpl_options options;
    unsigned char *memory = guest_memory();
    unsigned char resident[PAGES];
    unsigned char map[1024];
    size_t length = qpl_payload(payload), need;
    struct multifd_qpl_receiver *receiver;
    struct multifd_qpl_block *block;
    struct multifd_qpl_channel *channel;

    CHECK(strlen(multifd_qpl_version()) > 0);
    memset(&options, 0, sizeof options);
    options.engine = "software";
    options.workers = 2;
    receiver = multifd_qpl_receiver_new(&options);
    CHECK(receiver);
    block = multifd_qpl_block_new(receiver, "pc.ram", memory, PAGES * PAGE, true);
    CHECK(block);
    channel = multifd_qpl_channel_new(receiver, "qpl");
    CHECK(channel);

    CHECK(multifd_qpl_channel_packet(channel, block, &pages, payload, length) ==
          MULTIFD_QPL_STATUS_OK);
    CHECK(multifd_qpl_channel_drain(channel) == MULTIFD_QPL_STATUS_OK);
    CHECK(filled(memory + 5 * PAGE, 'a') && filled(memory + 3 * PAGE, 'r'));

    /* Zero pages that come first are marked and left alone. */
    CHECK(multifd_qpl_received_test(block, memory + 6 * PAGE) == 1);
    CHECK(multifd_qpl_received_test_byte_offset(block, 9 * PAGE) == 1);
    CHECK(multifd_qpl_received_test_byte_offset(block, 7 * PAGE) == 0);
    CHECK(mincore(memory, PAGES * PAGE, resident) == 0);
    CHECK((resident[5] & 1) && !(resident[6] & 1) && !(resident[9] & 1));

    /* The same through a callback: page 5 is written in place, 6 cleared. */
    {
        const uint64_t again[2] = {6 * PAGE, 5 * PAGE};
        const uint64_t cleared[1] = {3 * PAGE};
        const struct multifd_qpl_pages second = {again, 2, cleared, 1};
        struct reader reader = {payload, length};
        CHECK(multifd_qpl_channel_packet_read(channel, block, &second, read_payload,
                                              &reader, length) == MULTIFD_QPL_STATUS_OK);
        CHECK(multifd_qpl_channel_drain(channel) == MULTIFD_QPL_STATUS_OK);
        CHECK(reader.left == 0);
        CHECK(filled(memory + 6 * PAGE, 'a') && filled(memory + 5 * PAGE, 'r'));
        CHECK(filled(memory + 3 * PAGE, 0));
    }

    /* The received map, by hand and as the source wants it. */
    CHECK(multifd_qpl_received_set(block, memory + 100 * PAGE) == MULTIFD_QPL_STATUS_OK);
    CHECK(multifd_qpl_received_set_range(block, memory + 200 * PAGE, 70) ==
          MULTIFD_QPL_STATUS_OK);
    CHECK(multifd_qpl_received_set_offset(block, 300 * PAGE) == MULTIFD_QPL_STATUS_OK);
    CHECK(multifd_qpl_received_set_offset(block, PAGES * PAGE) ==
          MULTIFD_QPL_STATUS_BAD_ARGUMENT);
    CHECK(multifd_qpl_received_test(block, memory + PAGES * PAGE) == -1);
    need = multifd_qpl_received_send(block, NULL, 0);
    CHECK(need == 8 + PAGES / 8 + 8 && need <= sizeof map);
    CHECK(multifd_qpl_received_send(block, map, sizeof map) == need);
    CHECK(map[7] == PAGES / 8 && map[8] == 0x68 && map[9] == 0x02);

    /* What must fail, with a number and a sentence. */
    {
        const struct multifd_qpl_pages outside = {NULL, 0, beyond, 1};
        const struct multifd_qpl_pages one = {normal, 1, NULL, 0};
        const unsigned char damaged[] = {0, 0, 0, 2, 0xff, 0xff};
        CHECK(multifd_qpl_channel_packet(channel, block, &outside, NULL, 0) ==
              MULTIFD_QPL_STATUS_BAD_DATA);
        CHECK(strlen(multifd_qpl_last_error()) > 0);
        CHECK(multifd_qpl_channel_packet(NULL, block, &pages, payload, length) ==
              MULTIFD_QPL_STATUS_NULL_ARGUMENT);
        CHECK(multifd_qpl_channel_packet(channel, block, &one, NULL, 10) ==
              MULTIFD_QPL_STATUS_NULL_ARGUMENT);
        CHECK(multifd_qpl_channel_drain(NULL) == MULTIFD_QPL_STATUS_NULL_ARGUMENT);
        CHECK(!multifd_qpl_channel_new(receiver, "gzip"));
        CHECK(!multifd_qpl_channel_new(receiver, "uadk"));
        CHECK(!multifd_qpl_block_new(receiver, "x", memory, 100, true));
        options.engine = "abacus";
        CHECK(!multifd_qpl_receiver_new(&options));
        CHECK(multifd_qpl_channel_packet(channel, block, &one, damaged, sizeof damaged) ==
              MULTIFD_QPL_STATUS_OK); /* taken ... */
        CHECK(multifd_qpl_channel_drain(channel) == MULTIFD_QPL_STATUS_BAD_DATA);
    }
    CHECK(strstr(multifd_qpl_receiver_report(receiver), "\"engine\""));

    multifd_qpl_channel_free(channel);
    multifd_qpl_block_free(block);
    multifd_qpl_receiver_free(receiver);
    multifd_qpl_channel_free(NULL);
    multifd_qpl_block_free(NULL);
    multifd_qpl_receiver_free(NULL);

    /* The memory is the caller's again: untouched pages read as zero. */
    CHECK(filled(memory + 9 * PAGE, 0) && filled(memory + 500 * PAGE, 0));
    return 0;
}
