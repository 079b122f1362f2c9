// An HTTP service that says one line and nothing else: what a request costs whose guest is large, since all of
// SpiderMonkey is in it. The same calls as those of `hello-http`.
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.12';

const words = new TextEncoder().encode('Hello, world!\n');

export const incomingHandler = {
  handle(_request, out) {
    const response = new OutgoingResponse(new Fields());
    const body = response.body();
    ResponseOutparam.set(out, { tag: 'ok', val: response });
    const stream = body.write();
    stream.blockingWriteAndFlush(words);
    stream[Symbol.dispose]();
    OutgoingBody.finish(body, undefined);
  },
};
