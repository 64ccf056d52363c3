/* Threads with something to see in each: a call chain, and numbers of its own in general, floating-point and
   vector registers. They spin, so that the registers are live wherever they are stopped. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile int started;

__attribute__((noinline)) static void innermost(long number)
{
    unsigned long lanes[4] = {number, number * 3, number * 5, number * 7};
    double real = (double)number + 0.5;
    __sync_fetch_and_add(&started, 1);
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vmovups (%0), %%ymm7\n fldl (%1)\n 1: pause\n jmp 1b" ::"r"(lanes), "r"(&real) : "xmm7", "memory");
    else
        __asm__ volatile("movups (%0), %%xmm7\n fldl (%1)\n 1: pause\n jmp 1b" ::"r"(lanes), "r"(&real) : "xmm7", "memory");
}

__attribute__((noinline)) static void middle(long number)
{
    char room[200];
    memset(room, (int)number, sizeof room);
    innermost(number + room[number % 200] - room[0]);
    __asm__ volatile("" ::"r"(room) : "memory");
}

static void *run(void *number)
{
    middle((long)number);
    return NULL;
}

int main(void)
{
    char *heap = malloc(1 << 20);
    for (int i = 0; i < 1 << 20; i++)
        heap[i] = (char)(i * 7);
    for (long i = 1; i <= 3; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, (void *)i))
            return 1;
    }
    while (started < 3)
        usleep(1000);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
