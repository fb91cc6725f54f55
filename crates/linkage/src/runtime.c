/* Functions that std, libgcc and other crates take from a glibc newer than 2.28, put into each of our objects and hidden. */
#include <elf.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OURS __attribute__((visibility("hidden")))

extern const Elf64_Ehdr __ehdr_start OURS; /* from the linker: the first byte of this object in memory */

/* As <dlfcn.h> has it since glibc 2.35. */
struct found_object {
    unsigned long long flags;
    void *map_start, *map_end;
    void *link_map;
    void *eh_frame;
    unsigned long long reserved[7];
};

/*
 * libgcc's unwinder asks here where the unwind table of a program counter is. Only this object is known: no panic
 * leaves it, so an unwinder that is outside has reached its end. It takes no lock, not even in a child of a fork.
 */
OURS int _dl_find_object(void *pc, struct found_object *out) {
    uintptr_t base = (uintptr_t)&__ehdr_start, end = 0, table = 0;
    const Elf64_Phdr *header = (const void *)(base + __ehdr_start.e_phoff);
    for (int i = 0; i < __ehdr_start.e_phnum; i++, header++) {
        if (header->p_type == PT_LOAD && base + header->p_vaddr + header->p_memsz > end)
            end = base + header->p_vaddr + header->p_memsz;
        if (header->p_type == PT_GNU_EH_FRAME)
            table = base + header->p_vaddr;
    }
    if ((uintptr_t)pc < base || (uintptr_t)pc >= end || !table)
        return -1;
    *out = (struct found_object){.map_start = (void *)base, .map_end = (void *)end, .eh_frame = (void *)table};
    return 0;
}

/* 2.30; std has it as a weak reference, which lld turns into a need of that version. */
OURS int gettid(void) { return (int)syscall(SYS_gettid); }

/* 2.33; before, a header turned them into these. The first argument is the version of struct stat: 1 on x86-64. */
struct stat64;
int __xstat64(int, const char *, struct stat64 *);
int __lxstat64(int, const char *, struct stat64 *);
int __fxstat64(int, int, struct stat64 *);
int __fxstatat64(int, int, const char *, struct stat64 *, int);

OURS int stat64(const char *path, struct stat64 *out) { return __xstat64(1, path, out); }
OURS int lstat64(const char *path, struct stat64 *out) { return __lxstat64(1, path, out); }
OURS int fstat64(int fd, struct stat64 *out) { return __fxstat64(1, fd, out); }
OURS int fstatat64(int dir, const char *path, struct stat64 *out, int flags) {
    return __fxstatat64(1, dir, path, out, flags);
}

/* Other crates call these by their plain names; struct stat is struct stat64 on x86-64. */
OURS int stat(const char *path, struct stat64 *out) { return __xstat64(1, path, out); }
OURS int fstat(int fd, struct stat64 *out) { return __fxstat64(1, fd, out); }
