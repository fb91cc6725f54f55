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

int __real___libc_start_main(program *, int, char **, constructor *, void (*)(void), void (*)(void), void *);

static void construct(int count, char **arguments, char **environment) {
    for (constructor **next = __preinit_array_start; next != __preinit_array_end; next++)
        (*next)(count, arguments, environment);
    for (constructor **next = __init_array_start; next != __init_array_end; next++)
        (*next)(count, arguments, environment);
}

OURS int __wrap___libc_start_main(program *main, int count, char **arguments, constructor *init, void (*fini)(void),
                                  void (*loader_fini)(void), void *stack) {
    /* a startup code of before 2.34 brings its own */
    return __real___libc_start_main(main, count, arguments, init ? init : construct, fini, loader_fini, stack);
}
