# A disk that boots by a PC's BIOS and tells so on the first serial port. Sector 0 counts in sector 2 how often it has booted, writes
# both that and the text of sector 1 to the port, and does what the last byte of sector 1 says: with L the sectors from 3 on start
# Linux, of which the end of sector 1 tells where its files lie.
    .code16
    .globl _start
    .set data, 0x9000               # a sector that was read
    .set doing, 0x8f00              # the last byte of sector 1
    .set where, 0x8e00              # its 32 last bytes
    .set kernel, where              # sectors: of the kernel's file, and how many
    .set initrd, where + 8          # the same of the initrd
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    cld
    movb %dl, drive
    movl $2, %eax
    call read_sector
    incb data
    movb $0x43, %ah
    call transfer
    movl $2, %eax
    call read_sector
    call print
    movl $1, %eax
    call read_sector
    movw $data + 480, %si
    movw $where, %di
    movw $32, %cx
    rep movsb
    call print
    movb where + 31, %al
    cmpb $'O', %al
    je power_off
    cmpb $'W', %al
    je write_on
    cmpb $'L', %al
    je linux
rest:
    hlt
    jmp rest

# Advanced power management: connect, tell the version, and power off, 2 s later: QEMU takes along what nobody has read of its console.
power_off:
    movb $0x86, %ah
    movw $0x1e, %cx
    movw $0x8480, %dx
    int $0x15
    movw $0x5301, %ax
    xorw %bx, %bx
    int $0x15
    movw $0x530e, %ax
    xorw %bx, %bx
    movw $0x0102, %cx
    int $0x15
    movw $0x5307, %ax
    movw $1, %bx
    movw $3, %cx
    int $0x15
    jmp rest

# Writes the disk full.
write_on:
    movl $64, lba
    movw $64, count
1:  movb $0x43, %ah
    call transfer
    jc rest
    addl $64, lba
    jmp 1b

linux:
    movl $3, lba
    movw $4, count
    movw $second, offset
    movb $0x42, %ah
    call transfer
    jmp second

# Reads the sector in eax.
read_sector:
    movl %eax, lba
    movw $1, count
    movw $data, offset
    movb $0x42, %ah
# int 13h, extended read (42h) or write (43h).
transfer:
    movb drive, %dl
    movw $packet, %si
    movb $0, %al
    int $0x13
    ret

# Writes the text that was read, which a zero ends, to the serial port.
print:
    movw $data, %si
1:  movw $0x3fd, %dx
2:  inb %dx, %al
    testb $0x20, %al
    jz 2b
    lodsb
    testb %al, %al
    jz 3f
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 1b
3:  ret

drive:
    .byte 0
    .balign 4
packet:
    .byte 16, 0
count:
    .word 1
offset:
    .word data
segment:
    .word 0
lba:
    .long 0, 0
    .org 510
    .word 0xaa55

# Linux's boot protocol (Documentation/arch/x86/boot.rst): the setup code to 0x10000, the kernel to 1 MiB, the initrd to 112 MiB.
    .org 0x600
second:
    movl kernel, %eax
    movl %eax, lba
    movw $64, count
    movw $0, offset
    movw $0x1000, segment
    movb $0x42, %ah
    call transfer
    movw $0x1000, %ax
    movw %ax, %es
    movb $0xff, %es:0x210           # an unknown loader
    orb $0x80, %es:0x211            # that tells where the heap ends
    movw $0xde00, %es:0x224
    movl $0x1e000, %es:0x228        # the command line
    movl $0x7000000, %es:0x218      # the initrd
    movl initrd + 4, %eax
    shll $9, %eax
    movl %eax, %es:0x21c
    movw $words, %si
    movw $0xe000, %di
    movw $words_end - words, %cx
    rep movsb
    movzbl %es:0x1f1, %ebx
    incl %ebx                       # sectors of the setup code
    xorw %ax, %ax
    movw %ax, %es
    movl kernel, %eax
    addl %ebx, %eax
    movl kernel + 4, %ecx
    subl %ebx, %ecx
    movl $0x100000, %edi
    call load
    movl initrd, %eax
    movl initrd + 4, %ecx
    movl $0x7000000, %edi
    call load
    cli
    movw $0x1000, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movw $0xde00, %sp
    ljmp $0x1020, $0

# Loads ecx sectors from eax on to edi, 32 KiB each.
load:
    movl %eax, lba
    movl %ecx, left
    movl %edi, %eax
    movw %ax, to + 2
    shrl $16, %eax
    movb %al, to + 4
    movb %ah, to + 7
    movw $0x2000, segment
1:  movw $64, count
    movb $0x42, %ah
    call transfer
    movb $0x87, %ah
    movw $0x4000, %cx
    movw $table, %si
    int $0x15
    addl $64, lba
    addw $0x8000, to + 2
    adcb $0, to + 4
    adcb $0, to + 7
    subl $64, left
    jg 1b
    ret

left:
    .long 0
    .balign 8
table:
    .quad 0, 0
from:
    .word 0xffff, 0
    .byte 2, 0x93, 0, 0             # 0x20000
to:
    .word 0xffff, 0
    .byte 0, 0x93, 0, 0
    .quad 0, 0
words:
    .asciz "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable"
words_end:
    .org 0xe00
