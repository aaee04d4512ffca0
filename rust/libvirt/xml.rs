//! XML for libvirt, written.

use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// Writes escaped XML into memory, which can't fail.
pub(super) struct Xml(quick_xml::Writer<Vec<u8>>);

impl Xml {
    pub(super) fn new() -> Xml {
        Xml(quick_xml::Writer::new(Vec::new()))
    }

    fn write(&mut self, event: Event<'_>) {
        self.0.write_event(event).expect("memory takes every write");
    }

    pub(super) fn open(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Start(BytesStart::new(name).with_attributes(attributes.iter().copied())));
    }

    pub(super) fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.write(Event::Empty(BytesStart::new(name).with_attributes(attributes.iter().copied())));
    }

    pub(super) fn close(&mut self, name: &str) {
        self.write(Event::End(BytesEnd::new(name)));
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        self.open(name, &[]);
        self.content(text);
        self.close(name);
    }

    pub(super) fn content(&mut self, text: &str) {
        self.write(Event::Text(BytesText::new(text)));
    }

    pub(super) fn done(self) -> String {
        String::from_utf8_lossy(&self.0.into_inner()).into_owned()
    }
}
