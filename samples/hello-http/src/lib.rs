//! An HTTP service that says one line and nothing else: what a request costs.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body was not taken before");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream was not taken before");
        let written = stream.blocking_write_and_flush(b"Hello, world!\n");
        drop(stream);
        // A client that is gone needs no end of its answer.
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}
