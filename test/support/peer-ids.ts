/** PeerIds that belong to nobody. */

/** @param letter of base58 */
export function peerIdOf(letter: string): string {
  return `12D3KooW${letter.repeat(44)}`;
}
