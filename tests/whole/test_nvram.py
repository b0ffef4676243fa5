# SPDX-License-Identifier: BSD-2-Clause
"""A guest's variables in a flash bank: what it was told is done is there, whenever the program is killed."""
import os, random, time

SEED = int(os.environ.get("STERNA_TEST_SEED", 1))


def test_what_is_ready_survives_a_kill(full, img):
    m = full("nvram 0x22000000 query;nvram 0x22000000 set 3 sterna;nvram 0x22000000 get 3;nvram 0x22000000 count 4")
    assert m.wait("^QUERY")[1] == "QUERY QRY set 1 size 2^25"
    assert m.wait("^GET")[1] == "GET sterna"
    m.wait("^COUNT 20$")
    time.sleep(random.Random(SEED).random() / 5)
    m.process.kill()
    m.process.wait()
    told = max(int(text.split()[1]) for _, text in m.lines if text.startswith("COUNT "))
    m = full("nvram 0x22000000 get 3;nvram 0x22000000 counted 4")
    assert m.wait("^GET")[1] == "GET sterna"
    assert int(m.wait("^COUNTED")[1].split()[1]) >= told
    m.quit()
    assert img("check", full.flash, check=False).returncode in (0, 3)
