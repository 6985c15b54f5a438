// Format and size of a picture, read from its first bytes.

export function look(bytes) {
  const text = (from, to) => bytes.toString("latin1", from, to);
  if (text(1, 4) === "PNG") {
    return { format: "png", width: bytes.readUInt32BE(16), height: bytes.readUInt32BE(20) };
  }
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return jpeg(bytes);
  if (text(0, 4) === "RIFF" && text(8, 12) === "WEBP") return webp(bytes, text(12, 16));
  if (text(4, 12) === "ftypavif") {
    // The image spatial extents property: version and flags, width, height.
    const at = bytes.indexOf("ispe", 0, "latin1") + 8;
    return { format: "avif", width: bytes.readUInt32BE(at), height: bytes.readUInt32BE(at + 4) };
  }
  return { format: "unknown" };
}

function jpeg(bytes) {
  for (let at = 2; at < bytes.length; ) {
    const marker = bytes[at + 1];
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      const [height, width] = [bytes.readUInt16BE(at + 5), bytes.readUInt16BE(at + 7)];
      return { format: "jpeg", width, height };
    }
    at += 2 + bytes.readUInt16BE(at + 2);
  }
  return { format: "jpeg" };
}

function webp(bytes, kind) {
  if (kind === "VP8X") {
    return { format: "webp", width: 1 + bytes.readUIntLE(24, 3), height: 1 + bytes.readUIntLE(27, 3) };
  }
  if (kind === "VP8L") {
    const bits = bytes.readUInt32LE(21);
    return { format: "webp", width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
  }
  const [width, height] = [bytes.readUInt16LE(26) & 0x3fff, bytes.readUInt16LE(28) & 0x3fff];
  return { format: "webp", width, height };
}
