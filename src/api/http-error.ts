/** MapmeshError <-> HTTP: `{"error": {"code", "message", "hint"}}` with the status that fits the code. */
import { ERROR_CODES, type ErrorCode, MapmeshError } from '../core/errors.js';

export interface ErrorBody {
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly hint: string };
}

/** Codes that are not the server's fault; the others are 500. */
const STATUS_BY_CODE: Partial<Record<ErrorCode, number>> = {
  ERR_USAGE: 400,
  // A policy or a PeerId in a request; what the agent itself was given it has checked before it answers anybody.
  ERR_CONFIG: 400,
  ERR_KEY_SIZE: 400,
  ERR_EDITOR: 403,
  ERR_WRITER: 403,
  ERR_NO_SUCH_MAP: 404,
  ERR_NO_SUCH_KEY: 404,
  ERR_AMBIGUOUS_MAP: 409,
  ERR_MAP_KIND: 409,
  ERR_MAP_SHAPE: 409,
  ERR_RESIZE: 409,
  ERR_MAP_FULL: 507,
  ERR_LIMIT: 429,
};

/** An error whose status does not follow from its code alone. */
export class HttpError extends MapmeshError {
  readonly statusCode: number;

  constructor(statusCode: number, code: ErrorCode, message: string, hint: string) {
    super(code, message, { hint });
    this.statusCode = statusCode;
  }
}

export function statusOf(error: MapmeshError): number {
  return error instanceof HttpError ? error.statusCode : (STATUS_BY_CODE[error.code] ?? 500);
}

export function errorBody({ code, message, hint }: MapmeshError): ErrorBody {
  return { error: { code, message, hint } };
}

/** The error that a reply carries; `otherwise` when the reply is not one of ours. */
export function errorFromBody(body: unknown, otherwise: string): MapmeshError {
  const error = (body as Partial<ErrorBody> | null | undefined)?.error;
  if (typeof error?.message !== 'string') {
    return new MapmeshError('ERR_API', otherwise, { hint: 'Is the address that of a mapmesh agent?' });
  }
  const code = Object.hasOwn(ERROR_CODES, String(error.code)) ? error.code : 'ERR_API';
  return new MapmeshError(code, error.message, { hint: String(error.hint ?? '') });
}
