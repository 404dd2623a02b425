//! A connection that ends when its client takes nothing of a response for too long.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::admission::Permit;

/// A stream with a limit on the time in which no byte can be written. It is counted until it is dropped.
#[derive(Debug)]
pub struct Guarded<T> {
    stream: T,
    limit: Duration,
    /// Running while bytes wait to be written.
    waiting: Option<Pin<Box<Sleep>>>,
    _permit: Permit,
}

impl<T> Guarded<T> {
    pub fn new(stream: T, limit: Duration, permit: Permit) -> Self {
        Guarded {
            stream,
            limit,
            waiting: None,
            _permit: permit,
        }
    }

    /// Passes on what a write did, or ends the connection when the last one that did something is too long ago.
    fn limited<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        // Whoever polls once more after the error waits as long again, and is not woken at once for ever.
        waiting.as_mut().reset(Instant::now() + limit);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of the response",
        )))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use banyan_http::TrustedProxies;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::{super::admission::Admission, *};

    const LIMIT: Duration = Duration::from_secs(30);

    fn guarded<T>(stream: T) -> Guarded<T> {
        let admission = Admission::new(1, None, TrustedProxies::default());
        Guarded::new(stream, LIMIT, admission.admit().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_of_which_nothing_is_taken_ends_the_connection() {
        let (server, _client) = duplex(16);
        let begun = Instant::now();
        let error = guarded(server).write_all(&[7; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_goes_on_reading_gets_its_response() {
        let (server, mut client) = duplex(16);
        let writing = tokio::spawn(async move { guarded(server).write_all(&[7; 160]).await });
        let mut taken = [0; 16];
        for _ in 0..10 {
            sleep(LIMIT - Duration::from_secs(1)).await;
            client.read_exact(&mut taken).await.unwrap();
        }
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_to_be_written_may_be_silent() {
        let (server, mut client) = duplex(16);
        let mut server = guarded(server);
        sleep(LIMIT * 10).await;
        server.write_all(b"late").await.unwrap();
        let mut taken = [0; 4];
        client.read_exact(&mut taken).await.unwrap();
        assert_eq!(&taken, b"late");
    }
}
