/* A follower that knows nothing but docs/share.md: it maps what its leader shows, follows every change, and answers on its
 * standard output what is asked on its standard input: "read ADDRESS", "regions" or "hold REGION" and "release". */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HELLO = 1, WELCOME, REFUSED, PROPOSE, READY, VETO, COMMIT, DONE, ABORT, UNDONE, RELEASED, BYE };
enum { STORAGE = 1, PLACE, REGION, LEASE };
enum { MOST = 64 };

struct header {
    char magic[4];
    uint16_t version, kind;
    uint32_t length, flags;
    uint64_t sequence, generation;
    uint16_t descriptors, zero;
    uint32_t records;
};
struct storage { uint64_t id, size; char *bytes; };
struct place { uint64_t id, base, size, storage, offset; };
struct table { struct storage storages[MOST]; struct place places[MOST]; };

static struct table now, next; /* An entry without an id is free; ids of regions are kept one higher. */
static int sock, is_ready;
static uint64_t held;

static void fail(const char *what) { perror(what); exit(1); }

static void say(int kind, uint64_t sequence, const void *records, uint32_t length, uint32_t count) {
    char bytes[256];
    struct header header = {"DBSP", 1, kind, sizeof header + length, 0, sequence, 0, 0, 0, count};
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, records, length);
    if (send(sock, bytes, header.length, MSG_NOSIGNAL) < 0) fail("send");
}

static struct storage *storage_of(struct table *table, uint64_t id) {
    for (int i = 0; i < MOST; i++)
        if (table->storages[i].id == id) return &table->storages[i];
    fail("no storage");
    return NULL;
}

static struct place *place_of(struct table *table, uint64_t id) {
    for (int i = 0; i < MOST; i++)
        if (table->places[i].id == id) return &table->places[i];
    return NULL;
}

static void stage(const char *record, const int *fds) {
    uint16_t kind, index;
    uint32_t number;
    uint64_t fields[5];
    memcpy(&kind, record, 2);
    memcpy(&number, record + 4, 4);
    memcpy(fields, record + 8, kind == PLACE ? 40 : kind == STORAGE ? 32 : 8);
    if (kind == STORAGE) {
        memcpy(&index, record + 40, 2);
        int prot = PROT_READ | (number & 1 ? PROT_WRITE : 0);
        char *bytes = mmap(NULL, fields[1], prot, MAP_SHARED, fds[index], fields[2]);
        if (bytes == MAP_FAILED) fail("mmap");
        *storage_of(&next, 0) = (struct storage){fields[0], fields[1], bytes};
    } else if (kind == PLACE) {
        struct place *place = place_of(&next, fields[0] + 1);
        if (!place) place = place_of(&next, 0);
        *place = (struct place){fields[0] + 1, fields[1], fields[2], fields[3], fields[4]};
    } else if (kind == REGION) {
        *place_of(&next, fields[0] + 1) = (struct place){0};
    }
}

/* Receives one message; its records are staged. */
static struct header receive(void) {
    static char bytes[65536];
    char beside[CMSG_SPACE(64 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = beside, .msg_controllen = sizeof beside};
    ssize_t count = recvmsg(sock, &message, 0);
    if (count <= 0) exit(0);
    int fds[64], taken = 0;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head))
        if (head->cmsg_type == SCM_RIGHTS) {
            taken = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(head), taken * sizeof(int));
        }
    struct header header;
    memcpy(&header, bytes, sizeof header);
    const char *record = bytes + sizeof header;
    for (uint32_t i = 0; i < header.records; i++) {
        uint16_t length;
        memcpy(&length, record + 2, 2);
        stage(record, fds);
        record += length;
    }
    while (taken) close(fds[--taken]);
    return header;
}

/* What the current table shows and the other does not is unmapped. */
static void settle(struct table *keep, struct table *drop) {
    for (int i = 0; i < MOST; i++) {
        int is_shown = 0;
        for (int j = 0; j < MOST; j++) is_shown |= keep->places[j].id && keep->places[j].storage == keep->storages[i].id;
        if (!is_shown) keep->storages[i].id = 0;
    }
    for (int i = 0; i < MOST; i++) {
        int is_kept = 0;
        for (int j = 0; j < MOST; j++) is_kept |= keep->storages[j].bytes == drop->storages[i].bytes && keep->storages[j].id;
        if (drop->storages[i].id && !is_kept) munmap(drop->storages[i].bytes, drop->storages[i].size);
    }
    *drop = *keep;
}

static void follow(struct header header) {
    if (header.kind == BYE) exit(0);
    if (header.kind == REFUSED) fail("refused");
    if (header.kind == COMMIT) {
        settle(&next, &now);
        is_ready = 0;
        say(DONE, header.sequence, NULL, 0, 0);
    } else if (header.kind == ABORT) {
        settle(&now, &next);
        if (is_ready) say(UNDONE, header.sequence, NULL, 0, 0);
        is_ready = 0;
    } else if (!(header.flags & 1)) {
        struct place *place = held ? place_of(&now, held) : NULL;
        struct place *after = held ? place_of(&next, held) : NULL;
        if (place && (!after || memcmp(place, after, sizeof *place))) {
            struct { uint16_t kind, length; uint32_t pid; uint64_t region, address, size; uint8_t what, writable, zero[6]; }
                lease = {LEASE, 40, getpid(), held - 1, place->base, place->size, 1, 0, {0}};
            settle(&now, &next);
            say(VETO, header.sequence, &lease, 40, 1);
        } else {
            is_ready = 1;
            say(READY, header.sequence, NULL, 0, 0);
        }
    }
}

static void answer(void) {
    char line[64] = "", *rest = line;
    if (!fgets(line, sizeof line, stdin)) exit(0);
    char *verb = strsep(&rest, " \n");
    uint64_t address = rest ? strtoull(rest, NULL, 0) : 0;
    if (!strcmp(verb, "release")) {
        struct { uint16_t kind, length; uint32_t zero; uint64_t region; } region = {REGION, 16, 0, held - 1};
        held = 0;
        say(RELEASED, 0, &region, 16, 1);
    }
    for (int i = 0; i < MOST; i++) {
        struct place *place = &now.places[i];
        if (!place->id) continue;
        if (!strcmp(verb, "regions")) printf("%#lx+%#lx ", (long)place->base, (long)place->size);
        if (address - place->base >= place->size) continue;
        if (!strcmp(verb, "hold")) held = place->id;
        if (!strcmp(verb, "read") && place->storage)
            printf("%s", storage_of(&now, place->storage)->bytes + place->offset + (address - place->base));
    }
    printf("\n");
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    sock = atoi(arguments[1]);
    struct { uint16_t kind, length; uint32_t writes; uint16_t lowest, highest; uint32_t zero; } wish = {8, 16, 1, 1, 1, 0};
    say(HELLO, 0, &wish, 16, 1);
    setvbuf(stdin, NULL, _IONBF, 0);
    struct pollfd fds[2] = {{.fd = sock, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    while (poll(fds, 2, -1) > 0)
        if (fds[0].revents) follow(receive());
        else answer();
    return 0;
}
