#!/usr/bin/env python3
"""Makes the data of `make bench` below DIR, the same bytes each time.

  benches/data.py DIR MB

tree, tree.2   a tree like that of a program's source, MB megabytes, and its next version: some files edited, added, removed, a
               folder renamed
many           150 * MB files of 100 to 2,000 bytes, a quarter of them random
big, big.2     a folder with one file of 2 * MB MiB, half of it random and half structured in turns of 8 MiB, and the file with
               200 overwrites of 4 KiB and 50 insertions of 1,000 bytes
"""
import os
import random
import shutil
import sys

MIB = 1 << 20


def vocabulary(dice, count):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(dice.choice(letters) for _ in range(dice.randint(2, 11))) for _ in range(count)]


def lines(dice, count):
    """Lines as of a program: names come back as often as in one."""
    shapes = (
        "\tif ({0}->{1} < {2}_{3})\n\t\treturn -{4};\n",
        "\t{0}_{1}({2}, &{3}->{4});\n",
        "static int {0}_{1}(struct {2} *{3}, unsigned long {4})\n{{\n",
        "\tstruct {0} *{1} = {2}_get({3}, {4});\n",
        "/* {0} {1} {2} {3} {4} */\n",
        "#define {0}_{1}_{2} ({3} + 0x{5:x})\n",
        "}}\n\n",
    )
    words = vocabulary(dice, 4000)
    weights = [1 / (n + 3) for n in range(len(words))]
    pick = lambda: dice.choice(shapes).format(*dice.choices(words, weights, k=5), dice.getrandbits(12))
    return [pick() for _ in range(count)]


def source(dice, pool, size):
    """A file of `size` bytes; zstd makes a quarter of it."""
    return "".join(dice.choices(pool, k=size // 16 + 1))[:size].encode()


def tree(dir, size):
    dice = random.Random(1)
    words = vocabulary(dice, 100)
    pool = lines(dice, 60_000)
    paths = []
    while size > 0:
        folder = f"{dir}/{dice.choice(words[:40])}/{dice.choice(words)}"
        os.makedirs(folder, exist_ok=True)
        # As in the kernel: half of the files under 5 kB, the mean 16 kB.
        length = min(int(dice.lognormvariate(8.6, 1.45)) + 40, 2 * MIB)
        path = f"{folder}/{dice.choice(words)}_{len(paths)}.{dice.choice('ccch')}"
        with open(path, "wb") as file:
            file.write(source(dice, pool, length))
        paths.append(path)
        size -= length
    return pool, paths


def next_tree(old, new, pool, paths):
    dice = random.Random(2)
    shutil.copytree(old, new, symlinks=True)
    paths = [new + path[len(old):] for path in paths]
    for path in dice.sample(paths, len(paths) // 12):
        with open(path, "r+b") as file:
            bytes = file.read()
            at = dice.randrange(len(bytes))
            file.seek(at)
            file.write(source(dice, pool, dice.randint(20, 400)) + bytes[at:])
    for path in dice.sample(paths, len(paths) // 100):
        os.unlink(path)
        with open(f"{path}.new", "wb") as file:
            file.write(source(dice, pool, dice.randint(500, 20000)))
    first = sorted(os.listdir(new))[0]
    os.rename(f"{new}/{first}", f"{new}/{first}-renamed")


def many(dir, count):
    dice = random.Random(3)
    words = vocabulary(dice, 3000)
    for n in range(count):
        folder = f"{dir}/{n // 100 % 40:02}/{n // 100:05}"
        if n % 100 == 0:
            os.makedirs(folder)
        size = dice.randint(100, 2000)
        text = dice.randbytes(size) if n % 4 == 0 else " ".join(dice.choices(words, k=size // 3)).encode()[:size]
        with open(f"{folder}/{n % 100:03}", "wb") as file:
            file.write(text)


def big(path, mib):
    """Structured: records of 64 bytes as a database or a core has them."""
    dice = random.Random(4)
    with open(path, "wb") as file:
        for part in range((mib + 7) // 8):
            if part % 2 == 0:
                file.write(dice.randbytes(8 * MIB))
                continue
            names = vocabulary(dice, 500)
            for n in range(8 * MIB // 64):
                row = part << 20 | n
                line = row.to_bytes(8, "little") + dice.randbytes(6) + bytes(10) + dice.choice(names).encode().ljust(40, b"\0")
                file.write(line)


def next_big(old, new):
    dice = random.Random(5)
    with open(old, "rb") as file:
        bytes = bytearray(file.read())
    for _ in range(200):
        at = dice.randrange(len(bytes) - 4096)
        bytes[at:at + 4096] = dice.randbytes(4096)
    cuts = [0, *sorted(dice.randrange(len(bytes)) for _ in range(50)), len(bytes)]
    with open(new, "wb") as file:
        for n, (begin, end) in enumerate(zip(cuts, cuts[1:])):
            file.write(dice.randbytes(1000) if n else b"")
            file.write(bytes[begin:end])


def main():
    dir, mb = sys.argv[1], int(sys.argv[2])
    os.makedirs(dir)
    next_tree(f"{dir}/tree", f"{dir}/tree.2", *tree(f"{dir}/tree", mb * 1000 * 1000))
    many(f"{dir}/many", 150 * mb)
    os.makedirs(f"{dir}/big")
    os.makedirs(f"{dir}/big.2")
    big(f"{dir}/big/file", 2 * mb)
    next_big(f"{dir}/big/file", f"{dir}/big.2/file")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
