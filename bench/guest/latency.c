/* latency DISK: writes 64 KiB at random places of the disk, one at a time with 10 ms in between, past the page cache.
 * Prints the microseconds of each on a line.
 *
 * latency DISK burst: prints 0 when it is ready; then, whenever the first byte of /dev/vdb becomes another, writes 64 KiB to
 * each of 200 places at the end of the disk, at once, and prints the microseconds of all of them. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 65536, PAUSE_US = 10000, LOOK_US = 50000, BURST = 200, STRIDE = 1 << 20 };

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

static void all_the_time(void) {
    for (unsigned char fill = 1;; fill = fill % 255 + 1) { // never zeroes, which a backup leaves out
        memset(block, fill, BLOCK);
        off_t at = random() % (size / BLOCK) * BLOCK;
        long long begun = micros();
        put(at);
        printf("%lld\n", micros() - begun);
        usleep(PAUSE_US);
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
    for (puts("0");; done = next) {
        while ((next = order(orders)) == done)
            usleep(LOOK_US);
        memset(block, next, BLOCK);
        long long begun = micros();
        for (int i = 1; i <= BURST; i++)
            put(size - (off_t)i * STRIDE);
        printf("%lld\n", micros() - begun);
    }
}

int main(int argc, char **argv) {
    disk = open(argc > 1 ? argv[1] : "", O_WRONLY | O_DIRECT);
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
