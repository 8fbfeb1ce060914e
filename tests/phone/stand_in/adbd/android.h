// Included before each of adbd's sources: what Android's build system and C library would have defined.
#include <paths.h>
#undef _PATH_BSHELL
#define _PATH_BSHELL "/system/bin/sh"  // what `adb shell` starts
#define PLATFORM_TOOLS_VERSION "29.0.6"
#define ADB_VERSION "29.0.6-stand-in"
#ifdef __cplusplus
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <android-base/thread_annotations.h>
#undef THREAD_ANNOTATION_ATTRIBUTE__  // attributes for clang alone
#define THREAD_ANNOTATION_ATTRIBUTE__(x)
// Owners and modes of pushed system files; nothing under /data/local/tmp has any.
static inline void fs_config(const char*, int, const char*, unsigned*, unsigned*, unsigned*, uint64_t*) {}
#endif
