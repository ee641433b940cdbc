// Asks the model about a picture. Knows nothing of the page.

export const MAX_BYTES = 8 * 1024 * 1024;

/** The bytes as base64, piece by piece: an argument list has a limit. */
export function base64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}

/** The classes of a picture (a File or Blob), best first: [{name, score}]. Throws an Error with a text to show. */
export async function classify(picture, ask = fetch) {
  if (picture.size > MAX_BYTES) {
    throw new Error("This picture is larger than 8 MB. Choose a smaller one.");
  }
  const encoded = base64(new Uint8Array(await picture.arrayBuffer()));
  let response;
  try {
    response = await ask("classify", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ instances: [{ image_bytes: { b64: encoded } }] }),
    });
  } catch {
    throw new Error("The server cannot be reached. Try again.");
  }
  if (response.status === 400) {
    throw new Error("The model cannot read this file. Choose a JPEG or PNG picture.");
  }
  if (response.status === 429) {
    throw new Error("Too many questions at a time. Wait a moment and try again.");
  }
  if (!response.ok) {
    throw new Error(`The server does not answer now (${response.status}). Try again later.`);
  }
  const [answer] = (await response.json()).predictions;
  return answer.classes.map((name, index) => ({ name, score: answer.scores[index] }));
}
