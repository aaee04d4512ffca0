/*
 * Uses libnasbackup.so through its header.
 *
 *   capi check                       what needs no hypervisor: exit status 0 if every reply is as it should be
 *   capi OPERATION FILE [init FILE]  runs OPERATION on the request in FILE, after an init if one is given, and prints
 *                                    the reply: exit status 0 if it is ok, 1 if not, 2 for wrong use
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nasbackup.h"

static int failures;

static int is_ok(const char *reply)
{
    static const char ok[] = "{\"ok\":true";
    return strncmp(reply, ok, sizeof ok - 1) == 0;
}

static void expect(const char *operation, const char *request, int ok, const char *text)
{
    char *reply = nasbackup_call(operation, request);
    if (reply == NULL || is_ok(reply) != ok || strstr(reply, text) == NULL) {
        fprintf(stderr, "%s: got %s, expected '%s' in it\n", operation ? operation : "NULL", reply ? reply : "NULL",
                text);
        failures++;
    }
    nasbackup_free(reply);
}

static int check(void)
{
    printf("version %s\n", nasbackup_version());
    expect("init", "{}", 1, "\"result\":null");
    expect("jobs", "{}", 1, "\"result\":[]");
    expect("cancel", "{\"job\":\"none\"}", 1, "\"result\":{\"found\":false}");
    expect("takeBackup", "{\"vmname\":\"x\"}", 0, "INVALID_ARGUMENT");
    expect("takeBackup", "{\"vmName\":", 0, "INVALID_ARGUMENT");
    expect("init", "{\"stateDir\":\"here\"}", 0, "stateDir");
    expect("frobnicate", "{}", 0, "frobnicate");
    expect("jobs", NULL, 0, "request: is NULL");
    expect(NULL, "{}", 0, "operation: is NULL");
    expect("jobs", "\xff\xfe", 0, "request: is not UTF-8");
    nasbackup_free(NULL);
    return failures == 0 ? 0 : 1;
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    long length;
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0
        && (text = calloc((size_t)length + 1, 1)) != NULL && fread(text, 1, (size_t)length, file) == (size_t)length) {
        fclose(file);
        return text;
    }
    perror(path);
    exit(2);
}

static int run(const char *operation, const char *path)
{
    char *request = read_file(path);
    char *reply = nasbackup_call(operation, request);
    int ok = is_ok(reply);
    puts(reply);
    nasbackup_free(reply);
    free(request);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "check") == 0)
        return check();
    if (argc == 5 && strcmp(argv[3], "init") == 0 && run("init", argv[4]) != 0)
        return 1;
    if (argc == 3 || argc == 5)
        return run(argv[1], argv[2]);
    fprintf(stderr, "usage: %s check | %s OPERATION FILE [init FILE]\n", argv[0], argv[0]);
    return 2;
}
