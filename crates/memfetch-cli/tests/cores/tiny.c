/* A process of a few pages whose content is known. It waits; with an argument it changes some of it, and ends by a fault. */
typedef unsigned long word;

static word call(word number, word a, word b, word c, word d, word e, word f)
{
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    word result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

enum { MMAP = 9, MUNMAP = 11, PAUSE = 34, AT_SYSINFO_EHDR = 33 };

const char message[] = "the quick brown fox";
int numbers[] = { 1, -2, 0x1234, 1000000 };
double halves[] = { 0.5, -2.25 };
const void *pointers[] = { message, numbers, 0 };
/* In UTF-16. */
const unsigned short wide[] = { 'w', 'i', 'd', 'e', ' ', 't', 'e', 'x', 't', 0 };
/* Past the end of the file: its own anonymous memory. */
char zeros[8192] __attribute__((aligned(4096)));

__attribute__((used)) static void begin(word *stack)
{
    /* Four pages at a place that is always the same: the first written, the second never touched. */
    volatile char *pages = (volatile char *)call(MMAP, 0x100000000, 4 * 4096, 3, 0x100022, (word)-1, 0);
    const char *from = "in memory of its own";
    for (int index = 0; from[index]; index++)
        pages[index + 16] = from[index];
    *(const void *volatile *)pages = &pointers;
    pages[3 * 4096 + 4095] = 'z';
    zeros[16] = 'b';
    /* The vdso, and the vvar before it, are the kernel's own and not the same on any two machines: away with them. The
       vector that tells where they are lies behind the pointers to arguments and environment. */
    word *vector = stack + 1;
    for (int lists = 0; lists < 2; vector++)
        lists += !*vector;
    for (; *vector; vector += 2)
        if (*vector == AT_SYSINFO_EHDR)
            call(MUNMAP, vector[1] - 16 * 4096, 18 * 4096, 0, 0, 0, 0);
    if (stack[0] > 1) {
        *(volatile int *)&numbers[1] = 7;
        pages[16] = 'I';
        call(MUNMAP, 0x100003000, 4096, 0, 0, 0, 0);
        *(volatile int *)8 = 1;
    }
    for (;;)
        call(PAUSE, 0, 0, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n call begin\n");
