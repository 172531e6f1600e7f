//! A web server and a store on this machine, with good and bad manners.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sql_support::bmp;

const SLOW: &str = "503 Slow Down";
const STORED: &str = "200 OK\r\nETag: \"1\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT";
/// More than the first few attempts take that are made as soon as they may be.
const PAUSE: Duration = Duration::from_secs(2);

/// A store's list of objects, and where it goes on.
fn listing(keys: &[&str], next: &str) -> String {
    let objects: String = keys
        .iter()
        .map(|key| format!("<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag><Size>9</Size></Contents>"))
        .collect();
    let next = match next {
        "" => "<IsTruncated>false</IsTruncated>".to_owned(),
        next => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>"
        ),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>{next}{objects}</ListBucketResult>"
    )
}

/// Answers by path until the test ends.
pub fn serve() -> Result<u16> {
    let asked: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = asked.clone();
            thread::spawn(move || {
                let _ = answer(stream, &asked);
            });
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, asked: &Mutex<HashMap<String, Instant>>) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut heads = Vec::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        heads.push(line);
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let since = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(path.to_owned(), Instant::now())
    };
    let photo = bmp(16, 16, [255, 0, 0]);
    let respond = |mut stream: &TcpStream, head: &str, body: &[u8]| -> Result<()> {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )?;
        Ok(stream.write_all(body)?)
    };
    match path {
        "/good.bmp" => respond(&stream, "200 OK", &photo),
        "/moved.bmp" => respond(&stream, "302 Found\r\nLocation: /good.bmp", b""),
        "/flaky.bmp" if since.is_none() => {
            respond(&stream, "503 Service Unavailable\r\nRetry-After: 0", b"")
        }
        "/flaky.bmp" => respond(&stream, "200 OK", &photo),
        "/busy.bmp" => respond(&stream, "429 Too Many Requests\r\nRetry-After: 50", b""),
        "/locked.bmp" => {
            let is_known = heads
                .iter()
                .any(|head| head == "authorization: Basic dTpwQHg=");
            let status = if is_known {
                "200 OK"
            } else {
                "401 Unauthorized"
            };
            respond(&stream, status, &photo)
        }
        _ if path.starts_with("/moved?") => respond(
            &stream,
            "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1",
            b"<Error/>",
        ),
        "/inside.bmp" => respond(
            &stream,
            "302 Found\r\nLocation: http://127.0.0.2:1/x.bmp",
            b"",
        ),
        "/loop.bmp" => respond(&stream, "302 Found\r\nLocation: /loop.bmp", b""),
        "/large.bmp" => Ok(write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
        )?),
        "/silent.bmp" => {
            thread::sleep(Duration::from_secs(120));
            Ok(())
        }
        "/shelf/summer/a.bmp" | "/shelf/summer/shoes/b.bmp" => respond(&stream, STORED, &photo),
        _ if path.starts_with("/shelf?") => {
            let keys = [
                "summer/a.bmp",
                "summer/folder.bmp/",
                "summer/new//a.bmp",
                "summer/notes.txt",
                "summer/shoes/b.bmp",
            ];
            respond(&stream, "200 OK", listing(&keys, "").as_bytes())
        }
        // Busy again and again: each page of the list once, and a photo until its pause has passed.
        _ if path.starts_with("/slow?") => match (since, path.contains("continuation-token=2")) {
            (None, _) => respond(&stream, SLOW, b""),
            (_, false) => respond(&stream, "200 OK", listing(&["a.bmp"], "2").as_bytes()),
            (_, true) => respond(
                &stream,
                "200 OK",
                listing(&["b.bmp", "c.bmp"], "").as_bytes(),
            ),
        },
        "/slow/a.bmp" if since.is_some_and(|since| since.elapsed() > PAUSE) => {
            respond(&stream, STORED, &photo)
        }
        "/slow/a.bmp" => respond(&stream, &format!("{SLOW}\r\nRetry-After: 3"), b""),
        // Cut the first time, and never in parts.
        "/slow/b.bmp" if since.is_none() => {
            write!(stream, "HTTP/1.1 {STORED}\r\nContent-Length: 999\r\n\r\n")?;
            Ok(stream.write_all(&photo)?)
        }
        "/slow/b.bmp" => respond(&stream, STORED, &photo),
        "/slow/c.bmp" => respond(&stream, SLOW, b"<Error><Code>SlowDown</Code></Error>"),
        _ => respond(&stream, "404 Not Found", b""),
    }
}
