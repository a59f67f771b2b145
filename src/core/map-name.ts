/** Names of replicated maps: one rule for settings, for the API, and for what the catalog of another node says. */
export const MAP_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/;

/** What follows "expected" in the message for a name that is none. */
export const MAP_NAME_WORDS =
  'a name of at most 64 characters a-z 0-9 . _ -, starting with a letter or a digit';
