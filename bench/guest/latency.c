/* latency DISK: writes 64 KiB to a random place of the disk and reads 64 KiB of another, in turn, one at a time with 5 ms in
 * between, past the page cache. Prints "w" or "r" and the microseconds of each on a line.
 *
 * latency DISK burst: prints "w 0" when it is ready; then, whenever the first byte of /dev/vdb becomes another, writes 64 KiB
 * to each of 200 places at the end of the disk, at once, and prints "w" and the microseconds of all of them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 65536, PAUSE_US = 5000, LOOK_US = 50000, BURST = 200, STRIDE = 1 << 20 };

static void *block;
static int disk;
static off_t size;

static long long micros(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void put(off_t at) {
    if (pwrite(disk, block, BLOCK, at) != BLOCK) {
        perror("latency");
        exit(1);
    }
}

static void get(off_t at) {
    if (pread(disk, block, BLOCK, at) != BLOCK) {
        perror("latency");
        exit(1);
    }
}

static off_t somewhere(void) {
    return random() % (size / BLOCK) * BLOCK;
}

static void timed(char what, void (*access)(off_t), off_t at) {
    long long begun = micros();
    access(at);
    printf("%c %lld\n", what, micros() - begun);
    usleep(PAUSE_US);
}

static void all_the_time(void) {
    for (unsigned char fill = 1;; fill = fill % 255 + 1) { // never zeroes, which a backup leaves out
        memset(block, fill, BLOCK);
        timed('w', put, somewhere());
        timed('r', get, somewhere());
    }
}

static unsigned char order(int orders) {
    if (pread(orders, block, 4096, 0) != 4096) {
        perror("/dev/vdb");
        exit(1);
    }
    return *(unsigned char *)block;
}

static void when_told(void) {
    int orders = open("/dev/vdb", O_RDONLY | O_DIRECT);
    unsigned char done = order(orders), next;
    for (puts("w 0");; done = next) {
        while ((next = order(orders)) == done)
            usleep(LOOK_US);
        memset(block, next, BLOCK);
        long long begun = micros();
        for (int i = 1; i <= BURST; i++)
            put(size - (off_t)i * STRIDE);
        printf("w %lld\n", micros() - begun);
    }
}

int main(int argc, char **argv) {
    disk = open(argc > 1 ? argv[1] : "", O_RDWR | O_DIRECT);
    if (disk < 0 || posix_memalign(&block, 4096, BLOCK) != 0) {
        perror("latency");
        return 1;
    }
    size = lseek(disk, 0, SEEK_END);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 2)
        when_told();
    else
        all_the_time();
    return 1;
}
