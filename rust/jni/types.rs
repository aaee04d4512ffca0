//! The Java types that the bridge makes and calls. Looked up once, at the start: a member that is missing or of another
//! signature fails there, and threads that know no class loader find them later.

use jni::objects::JClass;
use jni::refs::LoaderContext;
use jni::{Env, bind_java_type};

bind_java_type! {
    pub(super) JNative => org.nasbackup.Native,
    type_map = { JProgressListener => org.nasbackup.ProgressListener },
    methods {
        static fn log(level: jint, logger: JString, line: JString),
        static fn progress(listener: JProgressListener, status: JString),
    },
}

bind_java_type! {
    pub(super) JNasBackupException => org.nasbackup.NasBackupException,
    is_instance_of = { JThrowable },
    constructors {
        fn new(code: JString, step: JString, disk: JString, message: JString, leftovers: jboolean, cause: JThrowable),
    },
}

bind_java_type! { pub(super) JProgressListener => org.nasbackup.ProgressListener }

/// Looks everything up through the class loader of `class`.
pub(super) fn warm(env: &mut Env<'_>, class: &JClass<'_>) -> jni::errors::Result<()> {
    let loader = class.get_class_loader(env)?;
    let context = if loader.is_null() { LoaderContext::None } else { LoaderContext::Loader(&loader) };
    JNasBackupExceptionAPI::get(env, &context)?;
    JProgressListenerAPI::get(env, &context)?;
    JNativeAPI::get(env, &context)?;
    Ok(())
}
