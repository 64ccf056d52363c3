/* A thread of a 64-bit process that runs 32-bit code, as those of Wine do: it pauses in a page below 4 GiB, with
   numbers of its own in registers. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *code;

static void *run(void *nothing)
{
    (void)nothing;
    __asm__ volatile("mov $0x1122334455667788, %%r12\n"
                     "mov $0x12345678, %%eax\n"
                     "pushq $0x23\n"
                     "pushq %0\n"
                     "lretq\n" ::"r"(code)
                     : "rax", "r12", "memory");
    return NULL;
}

int main(void)
{
    static const unsigned char loop[] = {0xf3, 0x90, 0xeb, 0xfc};
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    memcpy(code, loop, sizeof loop);
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, NULL))
        return 1;
    for (;;)
        pause();
}
