/* latency DISK: writes 64 KiB at random places of the disk, one at a time with 10 ms in between, past the page cache.
 * Prints the microseconds of each on a line. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 65536, PAUSE_US = 10000 };

static long long micros(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int main(int argc, char **argv) {
    void *block;
    int disk = open(argc == 2 ? argv[1] : "", O_WRONLY | O_DIRECT);
    if (disk < 0 || posix_memalign(&block, 4096, BLOCK) != 0) {
        perror("latency");
        return 1;
    }
    off_t blocks = lseek(disk, 0, SEEK_END) / BLOCK;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned char fill = 1;; fill++) {
        memset(block, fill, BLOCK);
        off_t at = random() % blocks * BLOCK;
        long long begun = micros();
        if (pwrite(disk, block, BLOCK, at) != BLOCK) {
            perror("latency");
            return 1;
        }
        printf("%lld\n", micros() - begun);
        usleep(PAUSE_US);
    }
}
