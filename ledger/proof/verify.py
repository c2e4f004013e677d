#!/usr/bin/env python3
"""Verifies an audit export as FORMAT.md describes it, with the standard library alone.

    verify.py EXPORT CHECKPOINT KEYS [PROOF [CONSISTENCY]]

Exit status 0 and one line when everything verifies, 1 and the first fault otherwise.
It compares bytes, hashes, roots and signatures; the words of a line, which follow from its
bytes, it leaves to quorate. The Ed25519 verification is the slow one of RFC 8032, section 6.
"""
import base64, hashlib, json, struct, sys


def fail(what):
    print(what, file=sys.stderr)
    sys.exit(1)


# Ed25519, RFC 8032.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT = pow(2, (P - 1) // 4, P)


def recover(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT % P
    if (x * x - x2) % P:
        return None
    return P - x if x & 1 != sign else x


def add(a, b):
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    w, x, y, z = f - e, d - c, d + c, f + e
    return (w * x % P, y * z % P, x * y % P, w * z % P)


def mul(s, p):
    q = (0, 1, 1, 0)
    while s:
        if s & 1:
            q = add(q, p)
        p, s = add(p, p), s >> 1
    return q


def decompress(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    x = recover(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


GY = 4 * pow(5, P - 2, P) % P
G = (recover(GY, 0), GY, 1, recover(GY, 0) * GY % P)


def ed25519(public, message, signature):
    a, r, s = decompress(public), decompress(signature[:32]), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or a is None or r is None or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % Q
    x, y = mul(s, G), add(r, mul(h, a))
    return (x[0] * y[2] - y[0] * x[2]) % P == 0 and (x[1] * y[2] - y[1] * x[2]) % P == 0


# Merkle trees, RFC 6962.
def leaf(b):
    return hashlib.sha256(b"\0" + b).digest()


def node(a, b):
    return hashlib.sha256(b"\1" + a + b).digest()


class Tree:
    def __init__(self, size=0, peaks=()):
        self.size, self.peaks = size, list(peaks)

    def append(self, h):
        n = self.size
        while n & 1:
            h, n = node(self.peaks.pop(), h), n >> 1
        self.peaks.append(h)
        self.size += 1

    def root(self):
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        h = self.peaks[-1]
        for p in reversed(self.peaks[:-1]):
            h = node(p, h)
        return h


def audit_path_root(h, index, size, path):
    """RFC 9162, section 2.1.3.2."""
    fn, sn = index, size - 1
    for p in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            h = node(p, h)
            while fn & 1 == 0 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            h = node(h, p)
        fn, sn = fn >> 1, sn >> 1
    return h if sn == 0 else None


def consistent(first, first_root, second, second_root, path):
    """RFC 9162, section 2.1.4.2."""
    if first == second:
        return first_root == second_root and not path
    if first & (first - 1) == 0:
        path = [first_root] + path
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(c, fr), node(c, sr)
            while fn & 1 == 0 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first_root and sr == second_root and sn == 0


def open_checkpoint(signed, keys):
    text, _, signatures = signed.rpartition("\n\n")
    text += "\n"
    good = 0
    known = {}
    for k in keys:
        name, _, rest = k.partition("+")
        ident, _, key = rest.partition("+")
        raw = base64.b64decode(key, validate=True)
        if raw[0] != 1 or hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8] != ident:
            fail("key of " + name + " is damaged")
        known[(name, ident)] = raw[1:]
    for line in signatures.splitlines():
        dash, name, sig = line.split(" ")
        raw = base64.b64decode(sig, validate=True)
        public = known.get((name, raw[:4].hex()))
        if public is None:
            continue
        if not ed25519(public, text.encode(), raw[4:]):
            fail("the checkpoint's signature by " + name + " is not good")
        good += 1
    if good < len(known) // 2 + 1:
        fail("the checkpoint has too few signatures")
    lines = text.split("\n")
    heads, top, total = {}, Tree(), 0
    for l in lines[4:-1]:
        word, shard, size, root = l.split(" ")
        if word != "shard":
            fail("the checkpoint has a line that is not known")
        heads[int(shard)] = (int(size), base64.b64decode(root, validate=True))
        top.append(leaf(l.encode()))
        total += int(size)
    if int(lines[1]) != total or base64.b64decode(lines[2]) != top.root():
        fail("the checkpoint's root is not that of its heads")
    return lines[0].split("/")[1], heads


def verify_records(f, shard, first, last, frontier):
    """The tree of the records up to last, whose lines come next."""
    tree = Tree(first - 1, [bytes.fromhex(h) for h in frontier])
    while tree.size < last:
        raw = f.readline()
        want = "shard %d record %d" % (shard, tree.size + 1)
        if not raw.endswith(b"\n"):
            fail(want + ": the file ends before it")
        line = json.loads(raw)
        body = base64.b64decode(line["bytes"], validate=True)
        of, seq, index, millis = struct.unpack_from(">IQQq", body, 1)
        if (of, seq) != (shard, tree.size + 1) or (line["shard"], line["seq"], line["log_index"]) != (of, seq, index):
            fail(want + ": another one stands in its place, or it is altered")
        if leaf(body).hex() != line["hash"]:
            fail(want + ": its bytes do not give its hash")
        tree.append(leaf(body))
        if tree.size % 256 == 0:
            if json.loads(f.readline()) != {"root": tree.root().hex(), "shard": shard, "size": tree.size}:
                fail("shard %d: altered between records %d and %d" % (shard, tree.size - 255, tree.size))
    return tree


def verify_file(path, cluster, heads):
    """An export, or an archive that was unpacked (zstd -dc)."""
    with open(path, "rb") as f:
        header = json.loads(f.readline())
        verify = {"quorate-audit-export": verify_export, "quorate-audit-archive": verify_archive}.get(header["format"])
        if verify is None or header["version"] != 1 or header["cluster_id"] != cluster:
            fail("the header is not of an export or an archive of this cluster")
        n = verify(f, header, heads)
        if f.readline():
            fail("something stands behind the end")
    return n


def verify_export(f, header, heads):
    if {s["shard"]: s["size"] for s in header["shards"]} != {k: v[0] for k, v in heads.items()}:
        fail("the header and the checkpoint differ")
    n = 0
    for s in header["shards"]:
        tree = verify_records(f, s["shard"], s["first"], s["size"], s["frontier"])
        n += s["size"] - s["first"] + 1
        if tree.root() != heads[s["shard"]][1]:
            fail("shard %d: the records do not give the checkpoint's root" % s["shard"])
    return n


def verify_archive(f, h, heads):
    size, root = heads[h["shard"]]
    if h["size"] != size or not 1 <= h["first"] <= h["last"] <= size:
        fail("the header and the checkpoint differ")
    tree = verify_records(f, h["shard"], h["first"], h["last"], h["frontier"])
    if not consistent(h["last"], tree.root(), size, root, [bytes.fromhex(p) for p in h["path"]]):
        fail("shard %d: the records are not the beginning of what the checkpoint signs" % h["shard"])
    return h["last"] - h["first"] + 1


def main():
    cluster, heads = open_checkpoint(open(sys.argv[2]).read(), open(sys.argv[3]).read().split())
    try:
        n = verify_file(sys.argv[1], cluster, heads)
    except (ValueError, KeyError, struct.error) as e:
        fail("altered: %s" % e)
    if len(sys.argv) > 4:
        p = json.load(open(sys.argv[4]))
        r = p["record"]
        body = base64.b64decode(r["bytes"], validate=True)
        root = audit_path_root(leaf(body), r["seq"] - 1, p["size"], [bytes.fromhex(h) for h in p["path"]])
        if (p["size"], root) != heads[p["shard"]]:
            fail("the proof of one record does not give the checkpoint's root")
    if len(sys.argv) > 5:
        p = json.load(open(sys.argv[5]))
        if not consistent(p["from"], bytes.fromhex(p["from_root"]), p["size"], bytes.fromhex(p["root"]), [bytes.fromhex(h) for h in p["path"]]):
            fail("the log does not begin with what it was")
    print("%d records verify" % n)


main()
