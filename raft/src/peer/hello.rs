//! How a stream begins: who calls, whom, for what, and which versions both can speak.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Connection, GREETING, Purpose, broken,
    frame::{self, Frame, Frames},
};
use crate::codec::{self, Body, put_str, put_u64};

/// Versions of what members say to each other that this build speaks. Version 1 carries log records up to
/// [`codec::VERSION`] 2; a record of a later version must not be sent to who has agreed on it.
const OLDEST: u8 = 1;
const NEWEST: u8 = 1;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;

/// Who calls whom. A cluster or member of 0 is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) purpose: Purpose,
}

/// Calls: says who this is, and waits until that is welcome.
pub(crate) async fn call(mut stream: Box<dyn Connection>, hello: Hello) -> io::Result<Frames<Box<dyn Connection>>> {
    let mut body = vec![OLDEST, NEWEST, hello.purpose as u8];
    put_u64(&mut body, hello.cluster);
    put_u64(&mut body, hello.from);
    put_u64(&mut body, hello.to);
    stream.write_all(GREETING).await?;
    frame::write(&mut stream, Frame::with(HELLO, &body)).await?;
    let mut frames = Frames::new(stream);
    let (kind, body) = frames.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut body = Body::of(body);
    match kind {
        WELCOME => {
            let version = body.u8().map_err(broken)?;
            if !(OLDEST..=NEWEST).contains(&version) {
                return Err(broken(format!("version {version} was agreed on, which this build does not speak")));
            }
            Ok(frames)
        }
        REFUSED => Err(io::Error::new(io::ErrorKind::ConnectionRefused, body.string().map_err(broken)?)),
        other => Err(broken(format!("an answer of kind {other} to a greeting"))),
    }
}

/// Answers: takes the greeting, and welcomes or refuses whom it comes from. The greeting's first bytes may have been read.
pub(crate) async fn answer<S>(frames: &mut Frames<S>, member: u64, cluster: u64) -> io::Result<Hello>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (kind, body) = frames.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    if kind != HELLO {
        return Err(broken(format!("a stream begins with kind {kind}")));
    }
    let (oldest, newest, hello) = read(body).map_err(broken)?;
    let refusal = if oldest > NEWEST || newest < OLDEST {
        Some(format!(
            "versions {oldest} to {newest} of the members' protocol are not spoken here, {OLDEST} to {NEWEST} are"
        ))
    } else if hello.purpose != Purpose::Ask && hello.cluster != cluster {
        Some(format!("cluster ID mismatch: {:x} is asked for, this is a member of {cluster:x}", hello.cluster))
    } else if hello.purpose != Purpose::Ask && hello.to != member {
        Some(format!("member {:x} is asked for, this is member {member:x}", hello.to))
    } else {
        None
    };
    match refusal {
        None => {
            let version = newest.min(NEWEST);
            frame::write(frames.stream(), Frame::with(WELCOME, &[version])).await?;
            Ok(hello)
        }
        Some(why) => {
            let mut body = Vec::new();
            put_str(&mut body, &why);
            frame::write(frames.stream(), Frame::with(REFUSED, &body)).await?;
            Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
        }
    }
}

fn read(body: bytes::Bytes) -> Result<(u8, u8, Hello), String> {
    let mut body = Body::of(body);
    let (oldest, newest, purpose) = (body.u8()?, body.u8()?, body.u8()?);
    let purpose = Purpose::of(purpose).ok_or_else(|| format!("unknown purpose {purpose}"))?;
    Ok((oldest, newest, Hello { purpose, cluster: body.u64()?, from: body.u64()?, to: body.u64()? }))
}

/// Takes the bytes that every stream begins with.
pub(crate) async fn greeting<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting).await?;
    if greeting == *GREETING { Ok(()) } else { Err(broken("it does not begin as a member's stream does")) }
}

const _: () = assert!(codec::VERSION == 2, "a new version of records needs a new version of the protocol");

#[cfg(test)]
mod tests {
    use super::*;

    async fn meet(hello: Hello) -> (io::Result<Hello>, io::Result<()>) {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let answered = async move {
            greeting(&mut far).await?;
            answer(&mut Frames::new(far), 2, 9).await
        };
        let (answered, called) = tokio::join!(answered, call(Box::new(near), hello));
        (answered, called.map(drop))
    }

    #[tokio::test]
    async fn only_members_of_the_cluster_are_welcome() {
        let hello = Hello { cluster: 9, from: 1, to: 2, purpose: Purpose::Appends };
        let (answered, called) = meet(hello).await;
        assert_eq!(answered.unwrap(), hello);
        called.unwrap();
        let asking = Hello { cluster: 0, from: 0, to: 0, purpose: Purpose::Ask };
        assert_eq!(meet(asking).await.0.unwrap(), asking);
        for (wrong, why) in [
            (Hello { cluster: 8, ..hello }, "cluster ID mismatch"),
            (Hello { to: 3, ..hello }, "member 3 is asked for"),
        ] {
            let (answered, called) = meet(wrong).await;
            let called = called.unwrap_err().to_string();
            assert!(called.contains(why) && answered.unwrap_err().to_string() == called, "{called}");
        }
    }
}
