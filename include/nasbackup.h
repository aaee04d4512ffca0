/*
 * The C ABI of libnasbackup.so. Made by cbindgen from rust/capi.rs at each build: do not edit.
 * The operations, their requests and their results: docs/c-abi.md
 */

#ifndef NASBACKUP_H
#define NASBACKUP_H

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, e.g. "0.1.0". Never NULL; not to be freed.
const char *nasbackup_version(void);

// Runs an operation on a JSON request and returns when it is done. Safe to call from any thread.
//
// `operation` and `request_json` are NUL-terminated UTF-8. The reply is JSON on one line, UTF-8 too:
// `{"ok":true,"result":...}` or
// `{"ok":false,"error":{"code":...,"message":...,"step":...,"disk":...,"leftovers":...}}`.
// It is never NULL, whatever the arguments; give it to `nasbackup_free`.
//
// # Safety
// Each argument is NULL or points to a NUL-terminated string that nobody changes during the call.
char *nasbackup_call(const char *operation, const char *request_json);

// Frees a reply of `nasbackup_call`. NULL is allowed.
//
// # Safety
// `reply` is NULL or came from `nasbackup_call` and was not freed yet.
void nasbackup_free(char *reply);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NASBACKUP_H */
