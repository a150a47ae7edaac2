# The guest of the live tests: a 64 KiB ROM for `qemu-system-x86_64 -bios`.
#
# It enters 32-bit mode, writes a page of every kind over and over, and needs no device but the
# debug console (port 0xe9):
#   1. fill: each page from 1 MiB up to the end of RAM is written once, as a kind drawn at random;
#   2. '!' on the debug console says that the fill is done;
#   3. churn: for ever, a page drawn at random is rewritten as a kind drawn at random. A '.' on
#      the debug console after every 64 pages says that the guest is alive.
# One page in eight (page number 5 modulo 8) is never written by anyone: it stays zero, and a
# receiver must never see it touched.
#
# Kinds: zero 6/16, text-like 4/16, random 3/16, sparse (zero with a few words) 3/16.
#
# Set at build time:
#   RAM_PAGES  the guest's RAM in 4 KiB pages (at most 3 GiB of it are used)
#   PAUSE      port reads between two pages of the churn: the higher, the calmer the guest

        .intel_syntax noprefix

#ifndef RAM_PAGES
#define RAM_PAGES 4096
#endif
#ifndef PAUSE
#define PAUSE 1000
#endif
#define FIRST_PAGE 256                  /* what is below 1 MiB is left alone */
#define CONSOLE 0xe9
#define STACK_TOP 0x7000

        .text
        .globl _start
_start:

# Registers that keep their meaning throughout: ebp = state of the random numbers.
        .code32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, STACK_TOP
        mov     ebp, 0x2545f491
        cld

        mov     esi, FIRST_PAGE
fill:
        call    rewrite
        inc     esi
        cmp     esi, RAM_PAGES
        jb      fill

        mov     al, '!'
        out     CONSOLE, al

round:
        mov     edi, 64
churn:
        push    edi
        call    random                  # page = FIRST_PAGE + random * count / 2^32
        mov     edx, RAM_PAGES - FIRST_PAGE
        mul     edx
        lea     esi, [edx + FIRST_PAGE]
        call    rewrite
        mov     ecx, PAUSE
pause_a_bit:
        in      al, 0x80
        dec     ecx
        jnz     pause_a_bit
        pop     edi
        dec     edi
        jnz     churn
        mov     al, '.'
        out     CONSOLE, al
        jmp     round

# eax = 32 random bits. A linear congruence whose high half is folded onto the weak low half.
random:
        imul    ebp, ebp, 747796405
        add     ebp, 1442695041
        mov     eax, ebp
        shr     eax, 16
        xor     eax, ebp
        ret

# Rewrites page esi as a kind drawn at random; leaves the pages that are never written alone.
# Keeps esi.
rewrite:
        mov     eax, esi
        and     eax, 7
        cmp     eax, 5
        je      done
        mov     edi, esi
        shl     edi, 12
        call    random
        shr     eax, 28
        movzx   eax, byte ptr [kinds + eax]
        jmp     [handlers + eax * 4]
done:
        ret

zero_page:
        xor     eax, eax
        mov     ecx, 1024
        rep     stosd
        ret

text_page:
        mov     ebx, 512
1:      call    random
        shr     eax, 28
        mov     edx, [words + eax * 8]
        mov     [edi], edx
        mov     edx, [words + eax * 8 + 4]
        mov     [edi + 4], edx
        add     edi, 8
        dec     ebx
        jnz     1b
        ret

random_page:
        mov     ebx, 1024
1:      call    random
        stosd
        dec     ebx
        jnz     1b
        ret

sparse_page:
        push    edi
        call    zero_page
        pop     edi
        mov     ebx, 8
1:      call    random
        mov     edx, eax
        shr     edx, 22                 # one of the page's 1024 words
        mov     [edi + edx * 4], eax
        dec     ebx
        jnz     1b
        ret

        .align  4
handlers:
        .long   zero_page, text_page, random_page, sparse_page
kinds:
        .byte   0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3
words:
        .ascii  "harbour winter  the     lantern of      pebble  and     river   "
        .ascii  "meadow  to      copper  in      thistle orchard a       morning "

        .align  8
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff      # 0x08: flat code
        .quad   0x00cf92000000ffff      # 0x10: flat data
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .code16
start16:
        cli
        lgdt    cs:[gdt_pointer - _start]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .byte   0x66, 0xea              # a far jump with a 32-bit offset
        .long   protected
        .word   0x08

        .org    0xfff0                  # where the processor starts
        .byte   0xea                    # a far jump to f000:start16
        .word   start16 - _start
        .word   0xf000
        .org    0x10000
