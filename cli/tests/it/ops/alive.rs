//! `p2p health`, asking a process that answers as it should, or not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::text;

/// What `p2p health` says of a process that answers so, and what it asked for.
fn asked(status: &str, body: &str, args: &[&str]) -> (i32, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
    });
    // Listens everywhere, as in a container.
    let settings = [("PROMETHEUS_HOST", "0.0.0.0"), ("PROMETHEUS_PORT", port.as_str())];
    let (code, said) = text(&settings, args);
    (code, said, serving.join().unwrap())
}

#[test]
fn it_tells_what_the_process_says() {
    let (code, said, request) =
        asked("200 OK", r#"{"alive":true,"reasons":[],"loops":{}}"#, &["health"]);
    assert_eq!((code, said.as_str()), (0, "alive\n"));
    assert_eq!(request, "GET /healthz HTTP/1.1");

    let body = r#"{"ready":false,"reasons":["broker: no answer within 3s"],"checks":{}}"#;
    let (code, said, request) = asked("503 Service Unavailable", body, &["health", "--ready"]);
    assert_eq!((code, said.as_str()), (3, "not ready: broker: no answer within 3s\n"));
    assert_eq!(request, "GET /readyz HTTP/1.1");

    // Where only yes or no is told.
    let (code, said, _) = asked("503 Service Unavailable", "false", &["health"]);
    assert_eq!((code, said.as_str()), (3, "not alive\n"));
}

#[test]
fn who_does_not_answer_is_not_alive() {
    let (code, said) = text(&[("PROMETHEUS_PORT", "1")], &["health"]);
    assert_eq!(code, 1, "{said}");
    // Another program has the port.
    let (code, said, _) = asked("200 OK", "<html>", &["health"]);
    assert_eq!(code, 1, "{said}");
    let (code, said) = text(&[("ENABLE_METRICS", "false")], &["health"]);
    assert_eq!(code, 64, "{said}");
}
