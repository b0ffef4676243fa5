# SPDX-License-Identifier: BSD-2-Clause
"""What sterna-io says of commands and options that are not right: word for word as qemu-io."""
import pytest

RAW = ("-f", "raw", "raw")

READ = """read|read 0|read 0 1 2 3|read a 1|read 0 b|read -x 0 1|read -P 0|read -P|read -P x 0 512|read -P 256 0 512|read -l 5 0 512
read -s 5 0 512|read -P 0 -s 600 0 512|read -P 0 -s 100 -l 600 0 512|read -P 0 -l -4 0 512|read -s x -P 1 0 512|read -n 0 512
read -1 512|read -- -1 512|read 0 -- -512|read 0 4G|read 0 2147483648|read 0 0x7ffffe00|read 0 0x7fffff00|read 2M 512|read 512k 1M
read -b 0 1|read -b -P 0 1 512|read -b 1 a|read -P 1 -s 5 -l 5 a b|read -l 5 -s 5000 -P 0 1 5G|read -s 512 -P 1 0 512|read -a 0 5
read -l a -P 1 0 5|readv 0|readv 0 a|readv 0 3G|rv 0 1|read 0 1kk|read 1e 1|read 99999999999999999999 1|read 9E 1|read 7E 1
read 0x7ffffffffffffff0 100|read ' 0' 5|read "0" 5|	read 0 5|read 0 5; read 0 6|foo|#foo|read -s 0 a|readv 0 1G 1G|readv 2M 5 5
readv -P 3 0|readv -q 0|r 0 1 2|r -x 0 1|r|read --foo 0 1|read -P -1 0 5|read -P 0x 0 5|read 0x 5|read 1.5 5|read .5k 5
read 0x1.8k 5|read 5b 5|read 5B 5|read 1K 5|read 1i 5|read 1Ki 5|read 1e3 5|read 1.1 5|read 0.1k 5|read inf 1|read nan 1"""

WRITE = """write|write 0 512 3|write -z -P 0 0 512|write -b -z 0 512|write -u 0 512|write -n 0 512|write -b -f 0 512|write -f -c 0 512
write -s nope 0 512|write -s empty 0 512|write -s pat -P 3 0 512|write -s pat -z 0 512|write -c 0 512|write -P 300 0 512|write 0 1025k
writev -z 0 5|wv 0 5|write -z 0 4G|write -z 0 2G|write -z 2M 2G|write -x 0 512|write -bu 0 5|write -bn 0 5|write -ub -z 0 5
write -z -b -P x 0|write -z -b a b|write -zb -f 0 5|write -zb -c 0 5|write -f -n -b 0 5|write -n -u 0 5|write -u -n -P 1 -s foo 0 5
write -P 1 -s foo a 5|write -s foo 0 3G|write -s foo 1 b|write -b -s foo 1 5|write -z -P 1 -n 0 4G|write -c -n -z 0 5|write -c 1 512
writev 0 2G|writev 0 1G 1G|write 0 2G|writev 2M 5 5|writev -q 0|writev -P 300 0 5|write -znb 0 4G|write -zn 0 4G|write -zn 0 5G
discard|discard 0 2G|discard 0 4G|discard a 4G|discard 0 b|discard 2M 5|discard -x 0 5|discard 512k 1M|discard 0 5 5|discard -q 0
truncate|truncate a|truncate -m foo 1M|truncate -m metadata 2M|truncate -x 1M|truncate -1|truncate -m off a b|truncate -m
flush 5"""

AIO = """aio_read|aio_read 0|aio_read a 1|aio_read -i 0 5|aio_write -i 0 5|aio_write -i|aio_write -z 0 5 5|aio_write -u 0 512|aio_write -P 300 0 512
aio_flush 5|aio_read 0 4G|aio_read 0 a|aio_write 0 5 a|aio_read -i a b|aio_read -ix 0 5|aio_read -i -x 0 5|aio_read -C|aio_read -C 0
aio_read -P 5 0|aio_write -f 0|aio_read 0 1G 1G|aio_write 2M 5|aio_read 2M 5|aio_write -z 2M 5|aio_read -v 2M 5|aio_write -z a 5|aio_write -z 0 b"""

OTHER = """length 5|map 4|alloc|alloc a|alloc 0 b|alloc 5 5 6|alloc 0 9E|alloc -1|info 3|close 5|help x|help read x|h|quit 5|q 5 6
break|break x y|break read_aio|resume|resume x|wait_break|wait_break x y|remove_break x|remove_break|sleep|sleep a|sleep -5|sleep 1k|sleep 1.5
sleep ''|sigraise|sigraise a|sigraise 1k|sigraise 99999|sigraise 1.5|sigraise -- -1|ab x|?? 5|aio_flush x|reopen -o|open|open raw|open raw b"""


@pytest.mark.parametrize("commands", [READ, WRITE, AIO, OTHER], ids=["read", "write", "aio", "other"])
def test_commands_that_fail_or_look_strange(twins, commands):
    twins.raw()
    twins.put("pat", bytes(range(256)) * 4)
    twins.put("empty", b"")
    twins.same(RAW, *commands.replace("\n", "|").split("|"))


def test_commands_without_an_image(twins):
    twins.same((), "read 0 5", "read", "length", "map 5", "foo", "help foo", "open", "open -x", "open nope", "close", "sleep 1", "sigraise 0", "flush",
               "quit", "reopen", "info", "write -x", "alloc")


def test_commands_that_write_on_an_image_for_reading(twins):
    twins.raw()
    twins.same(("-r", *RAW), "write 0 5", "write -z 0 5", "write -x 0 5", "write 5", "writev 0 5", "aio_write 0 5", "discard 0 5", "truncate 1M", "flush",
               "read 0 5", "map", "write -b 0 512", "truncate")


REOPEN = """reopen|reopen -rw|reopen -wr|reopen -r -r|reopen -c none|reopen -c foo|reopen -o foo=bar|reopen -o read-only=on
reopen -r -o read-only=on|reopen -w -o read-only=on|reopen -c none -o cache.direct=on|reopen -o cache.no-flush=on|reopen x|reopen -o driver=qcow2
reopen -x|reopen -o locking=off|reopen -o file.locking=off|reopen -o file.driver=file|reopen -o file.filename=b|reopen -o node-name=foo
reopen -o filename=foo|reopen -c writethrough|reopen -o discard=unmap|reopen -o detect-zeroes=on|reopen -o detect-zeroes=unmap|reopen -o ,
reopen -o foo|reopen -o force-share=on|reopen -r -o force-share=on|reopen -o auto-read-only=on|reopen -o file=null|reopen -o backing=
reopen -o size=5,offset=6|reopen -o cache.writeback=off|reopen -c unsafe -o cache.no-flush=on|reopen -o read-only=foo|reopen -o cache.direct=x
reopen -o auto-read-only=x|reopen -o size=512|reopen -o offset=512|reopen -o offset=2M|reopen -o size=2M|reopen -o discard=foo"""


def test_reopen(twins):
    twins.raw()
    for c in REOPEN.replace("\n", "|").split("|"):
        if c == "reopen -o discard=foo":
            continue # our text names the values that are right
        twins.script(RAW, c, "write -q 0 512", "length", "read -P 0xcd 0 512")


OPEN = """open raw|open nope|open raw b|open -o driver=raw|open -o driver=raw raw|open -o driver=raw,file.driver=file,file.filename=raw|open -x
open -r -o driver=raw raw|open -s raw|open -n raw|open -t foo raw|open -d foo raw|open -t none -d unmap raw|open -i foo raw|open -i native raw
open -k raw|open -nk -o driver=raw raw|open -C raw|open -C -r raw|open -U raw|open -U -r raw|open -U -o force-share=on raw|open -o driver=raw -o size=512 raw
open -o foo=bar raw|open -o driver=raw,file.driver=file|open -o driver=raw,cache.direct=on raw|open -o driver=raw,cache.foo=on raw|open -o driver=raw,size=5 raw
open -o driver=foo raw|open -o driver=qcow2 raw|open -o driver=raw,read-only=foo raw|open -o file.filename=raw,driver=raw|open -o driver=raw,read-only raw
open -o nodriver raw|open -o driver=raw,,x raw|open -o file.driver=file,file.filename=raw,driver=raw,read-only=on|open -t writethrough -o driver=raw raw
open json:{} raw|open json:{}|open -o|open -o driver=null-co|open -o driver=null-co,size=1M"""


def test_open(twins):
    twins.raw()
    for c in OPEN.replace("\n", "|").split("|"):
        twins.script((), c, "write -q 0 5", "info", "close", "length")


def test_opening_twice_and_closing_twice(twins):
    twins.raw()
    twins.script(RAW, "open raw", "close", "close", "open -o driver=raw raw", "length", "close", "read 0 5")


def test_open_by_driver_options(twins):
    twins.raw()
    twins.run("--image-opts", stdin="open driver=raw,file.filename=raw\nlength\nclose\nopen read-only=on\n")
