//! The body of a call on the control socket, and a line of an answer: what is understood is said again and means the same.

use oncefs::control::{Call, Event};

pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(call) = serde_json::from_slice::<Call>(bytes) {
        let again = serde_json::to_vec(&call).expect("a call can be said");
        assert_eq!(serde_json::from_slice::<Call>(&again).expect("it is understood again"), call);
        assert!(call.path().starts_with("/v1/"));
    }
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let again = serde_json::to_vec(&event).expect("news can be told");
        assert!(!again.contains(&b'\n'), "a line is one event");
        assert_eq!(serde_json::from_slice::<Event>(&again).expect("it is understood again"), event);
    }
}
