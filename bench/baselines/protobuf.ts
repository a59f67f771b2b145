/** As much of the protobuf encoding as etcd's API needs here: fields of bytes, and messages of such. */

/** Wire type of bytes and messages. */
const LENGTH_DELIMITED = 2;
const VARINT = 0;

export function bytesField(number: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([varint(number * 8 + LENGTH_DELIMITED), varint(bytes.length), bytes]);
}

/** Calls `onField` for every field of bytes; numbers are passed over. @throws RangeError for other wire types. */
export function readFields(message: Buffer, onField: (number: number, bytes: Buffer) => void): void {
  let at = 0;
  const next = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = message[at++]!;
      value += (byte % 128) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < message.length) {
    const tag = next();
    const value = next();
    if (tag % 8 === VARINT) continue;
    if (tag % 8 !== LENGTH_DELIMITED) throw new RangeError(`wire type ${tag % 8}`);
    onField(Math.floor(tag / 8), message.subarray(at, at + value));
    at += value;
  }
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}
