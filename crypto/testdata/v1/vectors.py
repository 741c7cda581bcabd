"""Second implementation of docs/format.md: prints the vectors of vectors_test.go and writes the golden
passphrase and key-file slots beside itself. (age.slot was made by age.) Needs the package cryptography.
"""
import base64, hashlib, hmac, json, pathlib, struct
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

HERE = pathlib.Path(__file__).parent
REPO, M1, M2 = bytes(range(16)), bytes([0x11]) * 32, bytes([0x22]) * 32


def mac(key, msg):
    return hmac.new(key, msg, hashlib.sha256).digest()


def hkdf(secret, salt, info):  # of 32 bytes
    return mac(mac(salt, secret), info + b"\x01")


def label(master, text):
    return hkdf(master, REPO, b"hakobune/1 " + text)


def seal(epoch, master, kind, name, plain, random, scheme=b"\x01", seed=b"object seed"):
    salt, base = random[:32], random[32:44]
    header = b"HAKO\x01" + kind + scheme + b"\x00" + struct.pack(">IHH", epoch, 0, 0) + salt + bytes(16)
    info = kind + REPO + struct.pack(">I", len(name)) + name + hashlib.sha256(header).digest()
    aead = AESGCM(hkdf(label(master, seed), salt, info))
    out = header
    for i, at in enumerate(range(0, len(plain), 65536)):
        payload = plain[at:at + 65536]
        last = at + 65536 >= len(plain)
        nonce = bytes([base[0] | 0x80 if last else base[0] & 0x7F]) + base[1:]
        head = b"\x20\x00" + struct.pack("<H", len(payload) - 1)
        iv = nonce[:8] + struct.pack("<I", struct.unpack("<I", nonce[8:])[0] ^ i)
        out += head + nonce + aead.encrypt(iv, payload, head)
    return out


def b64(b):
    return base64.b64encode(b).decode()


def slot(name, info, root, salt, kdf):
    masters = [{"epoch": 1, "secret": b64(M1)}, {"epoch": 2, "secret": b64(M2)}]
    payload = {"hakobune": "repository keys", "version": 1, "slot": info, "repository": REPO.hex(),
               "config": b64(b'{"hakobune":"repository"}\n'), "masters": masters}
    plain = (json.dumps(payload, indent=2) + "\n").encode()
    nonce = bytes(range(12))
    box = nonce + AESGCM(hkdf(root, salt, b"hakobune/1 slot key")).encrypt(nonce, plain, b"")
    file = {"hakobune": "key slot", "version": 1} | info | kdf | {
        "salt": b64(salt), "commitment": b64(hkdf(root, salt, b"hakobune/1 slot commitment")), "box": b64(box)}
    (HERE / name).write_text(json.dumps(file, indent=2) + "\n")


chunker, writer = label(M1, b"chunker seed"), label(M1, b"writer authentication")
print("ChunkID of nothing", mac(label(M1, b"chunk id"), b"").hex())
print("ChunkID", mac(label(M1, b"chunk id"), b"hakobune").hex())
print("NamedID", mac(label(M1, b"named id"), b"hakobune").hex())
print("ChunkerSeed", (mac(chunker, struct.pack(">Q", 0)) + mac(chunker, struct.pack(">Q", 1))).hex())
print("MAC", mac(mac(writer, bytes(range(1, 9))), b"hakobune").hex())
print("CacheMAC", mac(label(M1, b"cache authentication"), b"hakobune").hex())
print("CollectionMAC", mac(label(M1, b"collection authentication"), b"hakobune").hex())
text = b"g" + struct.pack(">I", 3) + b"g/x" + b"hakobune"
print("Sign", Ed25519PrivateKey.from_private_bytes(label(M1, b"collection signature")).sign(text).hex())

random = bytes(range(0xA0, 0xA0 + 44))
pattern = bytes((i * 7 + i // 251) & 255 for i in range(3 * 65536 + 5))
print("object", seal(2, M2, b"i", b"i/0102030405060708/x-1", b"hakobune", random).hex())
print("notice", seal(2, M2, b"g", b"g/x", b"hakobune", random, b"\x04", b"notice seed").hex())
print("many packages", hashlib.sha256(seal(1, M1, b"p", b"", pattern, random)).hexdigest())

salt = bytes(range(0x40, 0x60))
info = {"id": "00112233aabbccdd", "kind": "passphrase", "label": "golden", "host": "ark",
        "created": "2026-01-02T03:04:05Z"}
root = Argon2id(salt=salt, length=32, iterations=1, lanes=1, memory_cost=19456).derive(b"correct horse battery staple")
kdf = {"kdf": {"algorithm": "argon2id", "time": 1, "memory_kib": 19456, "threads": 1}}
slot("passphrase.slot", info, root, salt, kdf)

key = bytes(range(0x80, 0xA0))
(HERE / "key.txt").write_text(
    "# hakobune key file: opens every backup of its repository, keep it secret\n" + b64(key) + "\n")
slot("keyfile.slot", info | {"id": "00112233aabbccde", "kind": "keyfile"}, key, salt, {})
