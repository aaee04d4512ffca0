/* Stands before virsh on the script's PATH: `virsh version` is timed apart (microseconds, a line each, appended to
 * $BENCH_VERSION_TIMES), everything else becomes virsh at once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
    int version = 0, status;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "version") == 0)
            version = 1;
    double begun = now();
    pid_t child = version ? fork() : 0;
    if (child == 0) {
        execv(VIRSH, argv);
        perror(VIRSH);
        return 127;
    }
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        perror("virsh");
        return 127;
    }
    FILE *times = fopen(getenv("BENCH_VERSION_TIMES"), "a");
    if (times == NULL || fprintf(times, "%.0f\n", now() - begun) < 0 || fclose(times) != 0) {
        perror("BENCH_VERSION_TIMES");
        return 127;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
