/*
 * Stands between the startup code of an executable and __libc_start_main (the linker's --wrap). Until glibc 2.33 the
 * startup code, linked into each executable, ran its constructors; since 2.34 glibc does so itself if it is called by a
 * newer version of that name. The old version asks for a function that runs them, on any glibc.
 */
#define OURS __attribute__((visibility("hidden")))

typedef void constructor(int, char **, char **);
typedef int program(int, char **, char **);

extern constructor *__preinit_array_start[] OURS, *__preinit_array_end[] OURS;
extern constructor *__init_array_start[] OURS, *__init_array_end[] OURS;

int old_start(program *, int, char **, constructor *, void (*)(void), void (*)(void), void *);
__asm__(".symver old_start, __libc_start_main@GLIBC_2.2.5");

static void construct(int count, char **arguments, char **environment) {
    for (constructor **next = __preinit_array_start; next != __preinit_array_end; next++)
        (*next)(count, arguments, environment);
    for (constructor **next = __init_array_start; next != __init_array_end; next++)
        (*next)(count, arguments, environment);
}

OURS int __wrap___libc_start_main(program *main, int count, char **arguments, constructor *init, void (*fini)(void),
                                  void (*loader_fini)(void), void *stack) {
    /* a startup code of before 2.34 brings its own */
    return old_start(main, count, arguments, init ? init : construct, fini, loader_fini, stack);
}
