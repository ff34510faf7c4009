// Node's fetch with the rules that a browser adds for a page of another origin (the Fetch standard's CORS protocol,
// without credentials): it asks first, takes a refusal for an answer, and hides every header that is not exposed.

const SAFELISTED_RESPONSE = ["cache-control", "content-language", "content-length", "content-type", "expires", "pragma"];
const SAFELISTED_CONTENT = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

const names = (headers, name) => (headers.get(name) ?? "").split(",").map((each) => each.trim().toLowerCase());

function requireOrigin(response, origin) {
  const allowed = response.headers.get("access-control-allow-origin");
  if (allowed !== "*" && allowed !== origin) throw new TypeError(`origin ${origin} is refused: ${allowed}`);
}

function needsPermission([name, value]) {
  if (name === "content-type") return !SAFELISTED_CONTENT.includes(value.split(";")[0]);
  return !["accept", "accept-language", "content-language"].includes(name);
}

async function preflight(url, init, origin) {
  const asked = [...new Headers(init.headers)].filter(needsPermission).map(([name]) => name);
  const response = await fetch(url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": init.method,
      "access-control-request-headers": asked.sort().join(","),
    },
  });
  await response.arrayBuffer();
  if (!response.ok) throw new TypeError(`the preflight ends with ${response.status}`);
  requireOrigin(response, origin);
  const allowed = names(response.headers, "access-control-allow-headers");
  // An asterisk would not stand for `authorization`.
  const refused = asked.filter((name) => !allowed.includes(name));
  if (refused.length > 0) throw new TypeError(`headers are refused: ${refused}`);
}

export function pageFetch(origin) {
  return async (url, init) => {
    await preflight(url, init, origin);
    const headers = new Headers(init.headers);
    headers.set("origin", origin);
    const response = await fetch(url, { ...init, headers });
    requireOrigin(response, origin);
    const exposed = [...SAFELISTED_RESPONSE, ...names(response.headers, "access-control-expose-headers")];
    const visible = [...response.headers].filter(([name]) => exposed.includes(name));
    return new Response(response.body, { status: response.status, headers: visible });
  };
}
